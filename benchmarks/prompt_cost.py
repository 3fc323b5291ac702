"""What given tokens cost a guided text: seconds against the length of the prompt, beside the same without one.

python benchmarks/prompt_cost.py [--free 32] [--prompts 0 64 224 480] [--vocab-size 32000] [--rounds 1] [--turns 5]

The model is free, so that only sampling and guidance count. Two rewards: one looks embeddings up by `codebook_embed`,
the other multiplies x [B, L, V] by a matrix, whose own gradient is as large as x. Prompts take turns in shuffled order,
in one process on one thread; CPU seconds, medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from catreparam.experiments.bench.turns import in_turn
from catreparam.guidance import Reward, codebook_embed, guided_sample
from catreparam.masked_diffusion import as_denoiser


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--free", type=int, default=32)
    parser.add_argument("--prompts", type=int, nargs="+", default=[0, 64, 224, 480])
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    codebook = torch.randn(options.vocab_size, 16, generator=torch.Generator().manual_seed(0))
    rewards: dict[str, Reward] = {
        "looked up": lambda x: codebook_embed(x, codebook).square().mean((1, 2)),
        "multiplied": lambda x: (x @ codebook).square().mean((1, 2)),
    }
    for name, reward in rewards.items():
        runs = {length: generation(reward, length, options) for length in options.prompts}
        seconds: dict[int, list[float]] = {length: [] for length in runs}
        for length, counted in in_turn(list(runs), options.turns):
            started = time.process_time()
            runs[length]()
            if counted:
                seconds[length].append(time.process_time() - started)
        base = statistics.median(seconds[options.prompts[0]])
        for length, values in seconds.items():
            middle = statistics.median(values)
            print(f"{name:12} prompt {length:4}  {middle:.3f} s  {middle / base:.2f}")


def generation(reward: Reward, length: int, options: argparse.Namespace) -> Callable[[], object]:
    """One guided text after `length` given tokens: 20 steps a round."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, length + options.free, options.vocab_size, generator=generator)
    given = torch.randint(options.vocab_size, (1, length), generator=generator)
    start = torch.cat([given, torch.full((1, options.free), options.vocab_size)], -1)
    denoiser = as_denoiser(lambda tokens: logits, mask_token=options.vocab_size)

    def run() -> Tensor:
        return guided_sample(
            denoiser, reward, start, estimator="redge", num_rounds=options.rounds, num_steps=20, generator=generator
        ).tokens

    return run


if __name__ == "__main__":
    main()
