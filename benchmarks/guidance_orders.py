"""Which order of reveals serves guidance: reward, KL and likelihood for every order, on four models.

python benchmarks/guidance_orders.py [--models NAME ...] [--orders NAME ...] [--rounds N ...] [--seeds N]

Models: characters of this repository's own pages (trained here first, a minute or two), digits as image tokens,
Sudoku boards, antibodies (where `catreparam data antiberty` has been called). All with ReinMax, ten steps a round, KL
weight 1. `gain` is what guidance maximises, reward - KL: the higher, the better. `log p` is the sequence's
log-probability under the model, its free positions read one at a time in an order drawn at random: a judge that is not
optimised, and knows of no rounds. `differ` is the share of generated tokens in which two results differ, where all
start alike. Intervals: 95 %, over all sequences.
"""

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from catreparam.data.sudoku import held_back_puzzles
from catreparam.experiments.guide.antibody.presets import PUBLIC
from catreparam.experiments.guide.antibody.weights import load_prior as load_antiberty
from catreparam.experiments.guide.antibody.weights import weights_path
from catreparam.experiments.guide.rewards import RewardSpec
from catreparam.experiments.runs.statistics import mean_and_interval
from catreparam.experiments.runs.streams import stream
from catreparam.experiments.sudoku.board import boards_to_tensor
from catreparam.experiments.sudoku.priors import load_prior as load_sudoku
from catreparam.experiments.sudoku.solving import to_tokens
from catreparam.guidance import Reward, guided_sample, on_embeddings
from catreparam.masked_diffusion import Denoiser, confidence_order, prior_of
from catreparam.masked_diffusion.orders import Order
from catreparam.models.denoiser import MaskedDenoiser
from catreparam.models.digits_models import load_digits_models
from catreparam.models.maskgit import MaskGITDenoiser
from catreparam.objectives.residues import RESIDUES, net_charge
from catreparam.objectives.sudoku import sudoku_penalty

ORDERS = (
    *("ancestral", "random", "confidence", "confidence + 1", "confidence + 4.5", "model_confidence"),
    *("entropy", "margin", "left_to_right"),
)
LETTERS = " abcdefghijklmnopqrstuvwxyz"
LENGTH = 32
DOCS = Path(__file__).parent.parent / "docs"


@dataclass(frozen=True)
class Bed:
    """A model, a reward, and the sequences of one seed, masked where something is to be generated."""

    denoiser: Denoiser
    reward: Reward
    tokens: Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=[*BEDS], choices=[*BEDS])
    parser.add_argument("--orders", nargs="*", default=ORDERS)
    parser.add_argument("--rounds", nargs="*", type=int, default=(4, 12))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | rounds | order | reward | KL | gain | log p | differ |\n|---|---:|---|---:|---:|---:|---:|---:|")
    for name in options.models:
        if name == "antibodies" and not weights_path().is_file():
            continue
        bed = BEDS[name]()
        for rounds in options.rounds:
            for order in options.orders:
                print(f"| {name} | {rounds} | {order} | {measured(bed, order, rounds, options.seeds)} |", flush=True)


def measured(bed: Bed, order: str, rounds: int, seeds: int) -> str:
    """Mean and interval of reward, KL, gain, log p and differ."""
    columns: list[list[float]] = [[], [], [], [], []]
    for seed in range(seeds):
        generator = stream(seed, "guidance orders")
        found = guided_sample(
            bed.denoiser, bed.reward, bed.tokens, estimator="reinmax", num_rounds=rounds, order=named(order),
            num_steps=10, generator=generator,
        )  # fmt: skip
        assert found.kl is not None
        judged = log_prob(bed.denoiser, bed.tokens, found.tokens, generator)
        values = (found.reward, found.kl, found.reward - found.kl, judged, distance(bed, found.tokens))
        for column, numbers in zip(columns, values, strict=True):
            column += numbers.tolist()
    return " | ".join("{:.2f} ± {:.2f}".format(*mean_and_interval(column)) for column in columns if column)


def distance(bed: Bed, tokens: Tensor) -> Tensor:
    """The share of generated tokens in which a result differs from the others, on average [B]; nothing for Sudoku."""
    if not bool((bed.tokens == bed.tokens[0]).all()):
        return tokens.new_empty(0)
    free = tokens[:, bed.tokens[0] == bed.denoiser.mask_token]
    return (free.unsqueeze(0) != free.unsqueeze(1)).float().mean(-1).sum(-1) / (len(free) - 1)


def named(order: str) -> str | Order:
    """An order by its name; `confidence + SIZE` is confidence with noise."""
    name, plus, size = order.partition(" + ")
    return confidence_order(float(size)) if plus else name


def log_prob(denoiser: Denoiser, start: Tensor, tokens: Tensor, generator: Generator) -> Tensor:
    """log p of the generated positions [B], read one at a time in random order."""
    total, masked = torch.zeros(len(tokens)), start == denoiser.mask_token
    rank = torch.rand(start.shape, generator=generator).masked_fill(~masked, 2.0).argsort(-1)
    state = start.clone()
    for place in rank[:, : int(masked.sum(-1).max())].unbind(1):
        at = place.unsqueeze(-1)
        token = tokens.gather(1, at)
        log_probs = torch.log_softmax(prior_of(denoiser, state), -1)[torch.arange(len(state)), place]
        total += (log_probs.gather(1, token) * masked.gather(1, at)).squeeze(1)
        state = state.scatter(1, at, token)
    return total


def text(steps: int = 2000) -> Bed:
    """A small transformer of the letters on this repository's pages; the reward counts the word "the", 3 nats each."""
    pages = "\n".join(page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md")))
    prose = re.sub(r"```.*?```", " ", pages, flags=re.S).lower()
    letters = re.sub(r"[^a-z]+", " ", prose)
    corpus = torch.tensor([LETTERS.index(letter) for letter in letters])
    generator = stream(0, "text")
    model = MaskedDenoiser(len(LETTERS), LENGTH, width=96, num_layers=2, generator=generator)
    adam = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(steps):
        adam.param_groups[0]["lr"] = 2e-3 * min(1.0, 2 * (1 - step / steps))
        starts = torch.randint(len(corpus) - LENGTH, (32, 1), generator=generator)
        clean = corpus[starts + torch.arange(LENGTH)]
        masked = torch.rand(clean.shape, generator=generator) < torch.rand(32, 1, generator=generator)
        logits = model(clean.masked_fill(masked, model.mask_token))
        loss = torch.nn.functional.cross_entropy(logits[masked], clean[masked])
        adam.zero_grad()
        loss.backward()
        adam.step()
    word = [LETTERS.index(letter) for letter in " the "]

    def the(x: Tensor) -> Tensor:
        spelled = [x[:, at : x.shape[1] - len(word) + 1 + at, letter] for at, letter in enumerate(word)]
        return 3 * torch.stack(spelled).prod(0).sum(-1)

    return Bed(model.eval().requires_grad_(False), the, torch.full((32, LENGTH), model.mask_token))


def digits() -> Bed:
    """Images of digits as 7 x 7 tokens; the reward is the log-probability that they show a three."""
    models = load_digits_models()
    score = RewardSpec.parse("class:3").score(models.reward, 16)
    denoiser = MaskGITDenoiser(models.prior)
    reward = on_embeddings(lambda embedded: score(models.vq.decode(embedded)), models.vq.codebook)
    return Bed(denoiser, reward, torch.full((16, 49), denoiser.mask_token))


def sudoku() -> Bed:
    """Boards with clues; the reward is minus the squared surplus of digits in rows, columns and boxes."""
    puzzles = to_tokens(boards_to_tensor(held_back_puzzles("medium", 8)))
    return Bed(load_sudoku("short"), lambda x: -sudoku_penalty(x), puzzles)


def antibodies() -> Bed:
    """The third loop of a heavy chain; the reward draws the net charge to 6."""
    sequence, design = PUBLIC["trastuzumab_VH"]
    first, last = map(int, design.split(",")[-1].split("-"))
    tokens = torch.tensor([RESIDUES.index(letter) for letter in sequence])
    tokens[first - 1 : last] = len(RESIDUES)
    return Bed(load_antiberty(), lambda x: -(net_charge(x, 7.4) - 6).square(), tokens.repeat(8, 1))


BEDS: dict[str, Callable[[], Bed]] = {"text": text, "digits": digits, "sudoku": sudoku, "antibodies": antibodies}

if __name__ == "__main__":
    main()
