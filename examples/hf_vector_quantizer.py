"""Hugging Face's wav2vec 2.0, tiny, on synthetic tones: its own vector quantiser and ours with several estimators."""

import numpy
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

from catreparam import make_estimator
from catreparam.nn import Wav2Vec2GumbelVectorQuantizer

NUM_STEPS, BATCH, SAMPLES = 60, 8, 1600
CONVOLUTIONS = {"conv_dim": [32, 32, 32], "conv_stride": [5, 4, 2], "conv_kernel": [10, 8, 4]}
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
CODES = {"num_codevectors_per_group": 16, "codevector_dim": 16, "proj_codevector_dim": 16, "num_negatives": 10}
CONFIG = Wav2Vec2Config(**CONVOLUTIONS, **SIZES, **CODES, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)


def tones(generator: torch.Generator) -> torch.Tensor:
    """Waves [batch, samples] whose frequency changes every 200 samples, so that there is something to predict."""
    frequency = 0.02 * 2 ** torch.randint(5, (BATCH, SAMPLES // 200), generator=generator)
    phase = frequency.repeat_interleave(200, 1).cumsum(1)
    return torch.sin(6.283 * phase) + 0.1 * torch.randn(BATCH, SAMPLES, generator=generator)


def train(estimator, seed: int) -> tuple[float, float]:
    """Contrastive loss and codevector perplexity, means over the last 20 steps; estimator None keeps HF's module."""
    torch.manual_seed(seed), numpy.random.seed(seed)  # masks come from numpy's
    model = Wav2Vec2ForPreTraining(CONFIG).train()
    if estimator is not None:
        ours = Wav2Vec2GumbelVectorQuantizer(CONFIG, estimator=estimator)  # the line that changes
        ours.load_state_dict(model.quantizer.state_dict())
        model.quantizer = ours
    model.set_gumbel_temperature(1.0)
    optimizer, generator, rows = torch.optim.Adam(model.parameters(), lr=1e-3), torch.Generator().manual_seed(seed), []
    length = int(model._get_feat_extract_output_lengths(SAMPLES))
    for _ in range(NUM_STEPS):
        mask = _compute_mask_indices((BATCH, length), mask_prob=0.5, mask_length=4)
        negatives = _sample_negative_indices((BATCH, length), CONFIG.num_negatives, mask)
        masks = {"mask_time_indices": torch.tensor(mask), "sampled_negative_indices": torch.tensor(negatives)}
        out = model(tones(generator), **masks)
        optimizer.zero_grad()
        (out.loss / mask.sum()).backward()
        optimizer.step()
        rows.append((out.contrastive_loss.item() / mask.sum(), out.codevector_perplexity.item()))
    return tuple(torch.tensor(rows[-20:]).mean(0).tolist())


def main() -> None:
    print("| quantiser | contrastive loss per masked frame | perplexity (of 32) |\n|---|---:|---:|")
    redge = make_estimator("exact_redge", num_noises=2)
    for name, estimator in {"Hugging Face's": None, "gumbel_softmax": "gumbel_softmax", "exact_redge": redge}.items():
        losses = [train(estimator, seed) for seed in range(2)]
        columns = [", ".join(f"{value:.2f}" for value in column) for column in zip(*losses, strict=True)]
        print(f"| {name} | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
