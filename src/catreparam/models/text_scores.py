"""How well images fit a prompt: CLIP by transformers or open_clip, from weights on this machine; and a stand-in."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from catreparam.extras import install
from catreparam.models.checkpoints import load_into, read_checkpoint, reason_of
from catreparam.models.image_scores import Score, as_colour

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training images


def load_text_score(scorer: str | None, prompt: str, *, device: str | torch.device = "cpu") -> Score:
    """A score in [-1, 1]: the cosine between image and prompt.

    `scorer` is a folder of a transformers CLIP model, `open_clip:ARCHITECTURE:FILE`, or `stand-in` (random features,
    for trying things out without weights). Raises ValueError without a scorer, for an empty prompt, and when weights or
    packages are missing; it says which. Nothing is downloaded.
    """
    if not prompt.strip():
        raise ValueError("the prompt is empty; say what the image should show")
    if not scorer:
        raise ValueError(
            f"the prompt {prompt!r} needs a text-image model: give --scorer a folder with a CLIP model, "
            "open_clip:ARCHITECTURE:FILE, or stand-in (docs/image-tokens.md says what to download)"
        )
    if scorer == "stand-in":
        return StandInScorer(prompt)
    if scorer.startswith("open_clip:"):
        return _open_clip(scorer, prompt, device)
    return _transformers_clip(Path(scorer), prompt, device)


class StandInScorer:
    """A text-image score without weights: random directions, determined by the prompt, in the mean colours of patches.

    It knows nothing of language. Tests and dry runs use it to exercise everything but the quality.
    """

    def __init__(self, prompt: str, *, grid: int = 4) -> None:
        digest = hashlib.sha256(prompt.strip().lower().encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        self.direction = F.normalize(torch.randn(3 * grid * grid, generator=generator), dim=0)
        self.grid = grid

    def __call__(self, images: Float[Tensor, "batch *channels h w"]) -> Float[Tensor, " batch"]:
        """The cosine with the prompt's direction, after centring at mid grey."""
        patches = F.adaptive_avg_pool2d(as_colour(images), self.grid).flatten(1) - 0.5
        return F.normalize(patches, dim=1, eps=1e-3) @ self.direction.to(patches)


def clip_images(images: Float[Tensor, "batch *channels h w"], side: int) -> Float[Tensor, "batch 3 side side"]:
    """Images in [0, 1] as CLIP wants them: colour, square, of its size, centred and scaled. Differentiable."""
    colour = as_colour(images)
    sized = F.interpolate(colour, size=(side, side), mode="bicubic", antialias=colour.shape[-1] > side)
    mean, std = (torch.tensor(values).to(sized).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    return (sized - mean) / std


def _transformers_clip(folder: Path, prompt: str, device: str | torch.device) -> Score:
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} is no folder of a transformers CLIP model (it has no config.json); "
            "docs/image-tokens.md says what to download"
        )
    try:
        from transformers import AutoTokenizer, CLIPModel
    except ImportError as error:
        raise ValueError(f"a CLIP folder needs transformers: {install('integrations')}") from error
    try:
        model: Any = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # what transformers raises depends on what is missing or damaged
        raise ValueError(f"the CLIP model in {folder} cannot be read ({reason_of(error)})") from error
    model = model.to(device).eval().requires_grad_(False)
    words = tokenizer([prompt], truncation=True, max_length=model.config.text_config.max_position_embeddings)
    with torch.no_grad():
        text = model.get_text_features(torch.tensor(words["input_ids"], device=device))
    side = int(model.config.vision_config.image_size)
    return _cosine(lambda images: _features(model.get_image_features(images)), _features(text), side)


def _open_clip(scorer: str, prompt: str, device: str | torch.device) -> Score:
    _, architecture, path = (scorer.split(":", 2) + ["", ""])[:3]
    if not architecture or not Path(path).is_file():
        raise ValueError(f"{scorer!r}: expected open_clip:ARCHITECTURE:FILE with a file of weights")
    try:
        import open_clip  # type: ignore[import-not-found]
    except ImportError as error:
        raise ValueError("open_clip:… needs the package: run pip install open_clip_torch") from error
    model = open_clip.create_model(architecture, pretrained=None)
    load_into(model, read_checkpoint(path), source=path)
    model = model.to(device).eval().requires_grad_(False)
    with torch.no_grad():
        text = model.encode_text(open_clip.get_tokenizer(architecture)([prompt]).to(device))  # type: ignore[operator]
    size = model.visual.image_size  # type: ignore[union-attr]
    return _cosine(model.encode_image, text, size if isinstance(size, int) else size[0])  # type: ignore[arg-type]


def _cosine(encode: Callable[[Tensor], Tensor], text: Tensor, side: int) -> Score:
    direction = F.normalize(text[0].float(), dim=0)
    return lambda images: F.normalize(encode(clip_images(images, side)).float(), dim=-1) @ direction


def _features(output: Any) -> Tensor:
    """The projected features; newer versions of transformers wrap them."""
    return output if isinstance(output, Tensor) else output.pooler_output
