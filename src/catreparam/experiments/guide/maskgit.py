"""Guide Halton-MaskGIT's ImageNet tokens by a prompt (CLIP), or by another reward of the decoded images.

The paper's protocol is the default: 20 linear rounds with remasking, in each 20 steps of Adam on
-weight * score + KL(q || prior). Weights are read from this machine; docs/image-tokens.md says what to download.
"""

import dataclasses
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from catreparam.experiments.guide.rewards import RewardSpec
from catreparam.experiments.runs.configs import command_of, config_of_folder, identity_of
from catreparam.experiments.runs.estimator_specs import build_estimator, normalise_specs
from catreparam.experiments.runs.folder import RunFolder, RunFolderError, finish, open_run_folder, writing
from catreparam.experiments.runs.machine import check_device, describe_machine
from catreparam.experiments.runs.progress import show_progress
from catreparam.experiments.runs.streams import stream
from catreparam.guidance import Generation, RoundInfo, guided_sample, on_embeddings
from catreparam.masked_diffusion import ClassifierFree, Condition, Denoiser
from catreparam.masked_diffusion.orders import ORDERS
from catreparam.masked_diffusion.steps import MASK_SCHEDULES
from catreparam.models.image_scores import Score
from catreparam.models.maskgit import MaskGIT, MaskGITDenoiser
from catreparam.models.maskgit_loading import check_vocabulary, load_maskgit, load_vq
from catreparam.models.text_scores import load_text_score
from catreparam.models.vq import VQModel
from catreparam.report import Column, Curve, ImageGrid, Plot, Report, Table
from catreparam.validation import check_choice, check_count, check_number

SHOWN_ROUNDS = 6  # pictures of a generation on the way


@dataclass(frozen=True)
class Config:
    """What to generate, from which weights."""

    vit: str = ""
    """The transformer: ImageNet_384_large.pth, or .safetensors."""
    vqgan: str = ""
    """The VQ model: vq_ds16_c2i.pt, or .safetensors."""
    prompt: str = ""
    """What the images should show; needs --scorer."""
    scorer: str = ""
    """Text-image model: a folder with a CLIP model, open_clip:ARCHITECTURE:FILE, or stand-in (no meaning)."""
    judge: str = ""
    """Another text-image model that only scores the result."""
    reward: str = ""
    """Instead of a prompt: imagenet:281 | ink:0.2 | symmetry."""
    label: int | None = None
    """ImageNet class of the prior; by default it is unconditional."""
    cfg_weight: float = 3.0
    """Classifier-free guidance, where there is a label: (1 + w) * conditional - w * unconditional logits."""
    estimator: str = "redge:num_steps=2,t1=0.9"
    """Any estimator (`catreparam list`), with hyperparameters if wanted."""
    reward_weight: float = 100.0
    """Weight of the reward."""
    kl_weight: float = 1.0
    """Weight of the KL to the prior."""
    num_images: int = 4
    """Images, side by side."""
    num_rounds: int = 20
    """Rounds of unmasking."""
    num_steps: int = 20
    """Steps of Adam in a round."""
    lr: float = 0.5
    """Learning rate of Adam."""
    schedule: str = "linear"
    """linear | cosine | arccos."""
    order: str = "ancestral"
    """ancestral | random | confidence | halton | entropy | margin | …."""
    remask_sigma: float = 1.0
    """How much of what is revealed is masked again, in [0, 1]."""
    heads: int | None = None
    """Attention heads of the transformer, only for widths that no official model has."""
    group_norm_groups: int = 32
    """Groups of the VQ model's normalisation."""
    seed: int = 0
    """Of all draws."""
    device: str = "cpu"
    """cpu | cuda | cuda:1 and so on."""
    folder: Path | None = None
    """Run folder; default runs/guide-maskgit. The same command resumes there."""

    def checked(self) -> "Config":
        """This config. Raises ValueError or TypeError naming the bad value and the remedy."""
        for name, what in (("vit", "transformer"), ("vqgan", "VQ model")):
            if not getattr(self, name):
                raise ValueError(
                    f"--{name} is missing: give the file of the {what}; docs/image-tokens.md says what to download"
                )
        if bool(self.prompt.strip()) == bool(self.reward.strip()):
            raise ValueError("give either a --prompt (with --scorer) or a --reward, not both and not neither")
        for name in ("num_images", "num_rounds", "num_steps"):
            check_count(name, getattr(self, name))
        check_number("lr", self.lr, above=0.0)
        check_number("reward_weight", self.reward_weight)
        check_number("kl_weight", self.kl_weight, least=0.0)
        check_number("remask_sigma", self.remask_sigma, least=0.0, most=1.0)
        check_choice("schedule", self.schedule, MASK_SCHEDULES)
        check_choice("order", self.order, ORDERS)
        check_device(self.device)
        (estimator,) = normalise_specs([self.estimator])
        return dataclasses.replace(self, estimator=estimator)


def run(config: Config) -> Report:
    """Generates, writes images and report into the run folder, and returns the report.

    After a kill the same command goes on from the last round. Raises CheckpointError, RunFolderError, WriteFailed, and
    ValueError for bad settings, missing weights and a reward that is not finite.
    """
    config = config.checked()
    score = _score(config)
    judge = load_text_score(config.judge, config.prompt, device=config.device) if config.judge else None
    transformer = load_maskgit(config.vit, heads=config.heads, device=config.device)
    vq = load_vq(config.vqgan, group_norm_groups=config.group_norm_groups, device=config.device)
    check_vocabulary(transformer, vq)
    path, facts = config.folder or Path("runs/guide-maskgit"), {"machine": describe_machine(config.device)}
    with open_run_folder(path, experiment="guide maskgit", config=identity_of(config), facts=facts) as folder:
        began = time.perf_counter()
        generation = _generate(config, transformer, vq, score, folder)
        seconds = time.perf_counter() - began
        return _write_report(config, vq, generation, judge, folder, seconds)


def report_folder(path: Path) -> Report:
    """Writes the report of a finished generation anew, with the weights it was made with, and returns it.

    Raises RunFolderError for a generation that is not finished, CheckpointError if the weights are not there any more.
    """
    config, folder = config_of_folder(Config, path)
    if folder.load_checkpoint("result") is None:
        raise RunFolderError(
            f"the generation in {path} is not finished; {command_of('catreparam guide maskgit', config)}"
        )
    return run(config)


def unit_images(images: Tensor) -> Tensor:
    """The decoder's images, about in [-1, 1], as scores want them: in [0, 1]. Clipped, with zero gradient outside.

    >>> unit_images(torch.tensor([-3.0, 0.0, 1.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return (images.clamp(-1, 1) + 1) / 2


def _score(config: Config) -> Score:
    if config.prompt.strip():
        return load_text_score(config.scorer, config.prompt, device=config.device)
    return RewardSpec.parse(config.reward).score(None, config.num_images, config.device)


def _denoiser(config: Config, transformer: MaskGIT) -> tuple[Denoiser, Condition]:
    denoiser = MaskGITDenoiser(transformer)
    nclass = transformer.config.nclass
    if config.label is None:
        return denoiser, {}
    if not 0 <= config.label < nclass:
        raise ValueError(f"label must lie in [0, {nclass - 1}], got {config.label}")
    guided = ClassifierFree(denoiser, null_condition={"labels": nclass}, weight=config.cfg_weight)
    return guided, {"labels": config.label}


def _generate(config: Config, transformer: MaskGIT, vq: VQModel, score: Score, folder: RunFolder) -> Generation:
    denoiser, condition = _denoiser(config, transformer)
    names = ("num_rounds", "num_steps", "lr", "kl_weight", "schedule", "order", "remask_sigma")
    every = max(1, -(-config.num_rounds // SHOWN_ROUNDS))

    def keep(info: RoundInfo) -> None:
        if info.round_index % every == 0:  # what this round proposes; written before the generation's own checkpoint
            folder.save_checkpoint(f"round-{info.round_index:03d}", {"tokens": info.clean}, {})

    with show_progress() as progress, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* finished: it is returned")  # a report asks for nothing else
        progress.start("rounds", total=config.num_rounds)
        return guided_sample(
            denoiser,
            on_embeddings(lambda z: config.reward_weight * score(unit_images(vq.decode_flat(z))), vq.codebook()),
            torch.full(
                (config.num_images, transformer.config.input_size**2), denoiser.mask_token, device=config.device
            ),
            estimator=build_estimator(config.estimator),
            **{name: getattr(config, name) for name in names},
            condition=condition,
            checkpoint=folder.path / "generation.safetensors",
            callback=keep,
            progress=lambda done, total: progress.advance("rounds", ""),
            generator=stream(config.seed, "generation", config.device),
        )


@torch.no_grad()
def _write_report(
    config: Config, vq: VQModel, generation: Generation, judge: Score | None, folder: RunFolder, seconds: float
) -> Report:
    from matplotlib.image import imsave

    images = _decode(vq, generation.tokens)
    spent, wanted = generation.evaluations, config.prompt or config.reward
    report = Report(
        title=f"Guided images: {wanted}",
        summary=f"{config.num_images} images of {images.shape[-2]}x{images.shape[-1]} pixels, "
        f"{config.num_rounds} rounds of {config.num_steps} steps by {config.estimator}.",
        table=_table(generation, None if judge is None else judge(images)),
        plots=_plots(generation),
        grids=[ImageGrid("Results", images.unsqueeze(0)), *_round_grid(config, vq, folder)],
        facts={
            "transformer": Path(config.vit).name,
            "VQ model": Path(config.vqgan).name,
            "scorer": config.scorer or "–",
            "evaluations a sequence": f"{spent.model} of the model, {spent.reward} of the reward, "
            f"{spent.reward_gradient} of its gradient",
            "seconds of this session": f"{seconds:.1f}",
            "machine": folder.machine,
        },
        command=command_of("catreparam guide maskgit", config),
    )
    folder.save_checkpoint("result", {"tokens": generation.tokens, "images": images}, {})
    with writing(folder.path / "image-000.png"):
        for index, image in enumerate(images):
            imsave(folder.path / f"image-{index:03d}.png", image.permute(1, 2, 0).numpy())
    return finish(folder, report)


def _table(generation: Generation, judged: Tensor | None) -> Table:
    """A row an image."""
    values = {"reward": generation.reward, "kl": generation.kl, "log_prior": generation.prior_log_prob}
    shown = {key: of for key, of in {**values, "judged": judged}.items() if of is not None}
    rows = [
        {"image": str(i), **{key: float(of[i]) for key, of in shown.items()}} for i in range(len(generation.tokens))
    ]
    columns = [
        Column("image", "image"),
        Column("reward", "reward", ".3f"),
        *([] if judged is None else [Column("judged", "held-out score", ".4f")]),
        Column("kl", "KL, nats", ".1f"),
        Column("log_prior", "log prior", ".1f"),
    ]
    note = "Reward: as optimised, weight included. KL: of the guided from the prior's reveals."
    return Table(columns, rows, note)


def _decode(vq: VQModel, tokens: Tensor) -> Tensor:
    side = round(tokens.shape[-1] ** 0.5)
    return unit_images(vq.decode_tokens(tokens.unflatten(-1, (side, side)))).cpu()


def _plots(generation: Generation) -> list[Plot]:
    titles = {"reward": "Reward", "kl": "KL to the prior, nats", "entropy": "Entropy, nats"}
    steps = list(range(len(generation.trace.rows)))
    return [
        Plot(title, "step", key, [Curve(key, steps, generation.trace.column(key))], "Mean over the images.")
        for key, title in titles.items()
        if steps
    ]


def _round_grid(config: Config, vq: VQModel, folder: RunFolder) -> list[ImageGrid]:
    """What some rounds proposed, a row each."""
    kept = [folder.load_checkpoint(f"round-{index:03d}") for index in range(config.num_rounds)]
    rows = [_decode(vq, found[0]["tokens"].to(config.device)) for found in kept if found]
    return [ImageGrid("Over the rounds", torch.stack(rows), "What a round proposes, first to last.")] if rows else []
