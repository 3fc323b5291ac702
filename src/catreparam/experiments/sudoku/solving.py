"""Solving Sudoku by gradients, with any estimator: logits on their own, or guided by a masked-diffusion prior."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Int
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from catreparam.experiments.runs.estimator_specs import build_estimator
from catreparam.experiments.sudoku.config import FREE, UNGUIDED, Config
from catreparam.experiments.sudoku.priors import load_prior
from catreparam.guidance import Evaluations, RoundInfo, StepInfo, guided_sample, optimize_logits
from catreparam.models.denoiser import MaskedDenoiser
from catreparam.objectives.sudoku import allowed_digits, sudoku_penalty, violations

Boards = Int[Tensor, "B 81"]
# Called with steps done, of how many, board 0 with blanks, proposal for every cell.
Watch = Callable[[int, int, Tensor, Tensor], None]

LOOK_EVERY = 20  # steps without prior between two looks at the argmax


@dataclass
class Best:
    """The board with fewest violations seen so far, for each puzzle, and the mean violations of the proposals."""

    boards: Boards
    violations: Tensor
    curve: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def of(cls, puzzles: Boards) -> "Best":
        """Nothing seen yet."""
        return cls(puzzles.clone(), torch.full(puzzles.shape[:1], 1_000))

    def update(self, boards: Boards) -> Int[Tensor, " B"]:
        """Keeps the boards that have fewer violations than those before; returns the violations of these."""
        count = count_violations(boards)
        better = count < self.violations
        self.boards = torch.where(better[:, None], boards, self.boards)
        self.violations = torch.where(better, count, self.violations)
        return count

    def look(self, x_axis: int, boards: Boards) -> None:
        """Updates by these proposals and notes their mean violations."""
        self.curve.append((x_axis, float(self.update(boards).float().mean())))


@dataclass(frozen=True)
class Solved:
    """Boards of digits 1 to 9 [B, 81]: the last sample, the argmax of the last logits, the best seen on the way."""

    last: Boards
    argmax: Boards
    best: Boards
    curve: list[tuple[int, float]]  # (step or round, mean violations of the argmax)
    evaluations: Evaluations  # of one attempt
    attempts: float = 1.0  # made per puzzle, on average


def count_violations(boards: Boards) -> Int[Tensor, " B"]:
    """Digits missing from rows, columns and boxes of full boards."""
    return violations(one_hot(boards - 1, 9).float())


def solver(
    config: Config, prior: str, method: str, *, generator: Generator, watch: Watch | None = None
) -> Callable[[Boards], Solved]:
    """One attempt at boards with a prior (or one of FREE), by an estimator's spec or one of UNGUIDED."""
    if prior in FREE:
        excluded = prior == "none_excluded"
        return lambda puzzles: solve_without_prior(
            puzzles, method, config, exclude_peers=excluded, generator=generator, watch=watch
        )
    model = load_prior(prior)
    return lambda puzzles: solve_with_prior(puzzles, model, method, config, generator=generator, watch=watch)


def solve_in_attempts(attempt: Callable[[Boards], Solved], puzzles: Boards, most: int) -> Solved:
    """Up to `most` attempts at each puzzle; those that have violations left are tried again.

    The best board is the best of all attempts; everything else is the first attempt's.
    """
    first = attempt(puzzles)
    best, made = first.best.clone(), len(puzzles)
    count = count_violations(best)
    for _ in range(most - 1):
        left = (count > 0).nonzero()[:, 0]
        if len(left) == 0:
            break
        boards = attempt(puzzles[left]).best
        better = count_violations(boards) < count[left]
        best[left[better]] = boards[better]
        count, made = count_violations(best), made + len(left)
    return replace(first, best=best, attempts=made / len(puzzles))


def solve_without_prior(
    puzzles: Boards, spec: str, config: Config, *, exclude_peers: bool, generator: Generator, watch: Watch | None = None
) -> Solved:
    """Adam on the logits of every blank from 0, minimising the expected penalty; clues are fixed.

    With `exclude_peers` a digit that is a clue in the cell's row, column or box has logit -inf. The last sample is
    drawn from the last logits; the best is chosen among all samples and, every LOOK_EVERY steps, the argmax.
    """
    allowed = allowed_digits(puzzles, exclude_peers=exclude_peers)
    prior_logits = torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)
    best, total = Best.of(puzzles), config.free_steps

    def look(info: StepInfo) -> bool:
        if info.step % LOOK_EVERY == 0:
            boards = info.logits().argmax(-1) + 1
            best.look(info.step, boards)
            if watch is not None:
                watch(info.step, total, boards, boards)
        return _is_enough(config, best)

    found = optimize_logits(
        prior_logits,
        _reward,
        estimator=build_estimator(spec),
        num_steps=total,
        lr=config.free_lr,
        kl_weight=0.0,
        num_samples=config.free_samples,
        tokens=to_tokens(puzzles),
        track_best=True,
        callback=look,
        generator=generator,
    )
    argmax = found.logits.argmax(-1) + 1
    best.look(total, argmax)
    last = torch.multinomial(found.logits.softmax(-1).flatten(0, 1), 1, generator=generator).view_as(argmax) + 1
    if found.best_tokens is not None:
        best.update(found.best_tokens + 1)
    return Solved(last, argmax, best.boards, best.curve, found.evaluations)


def solve_with_prior(
    puzzles: Boards,
    model: MaskedDenoiser,
    method: str,
    config: Config,
    *,
    generator: Generator,
    watch: Watch | None = None,
) -> Solved:
    """Unmasks the blanks round by round, each round guided by `method` (an estimator's spec), or by nothing (UNGUIDED).

    last: the board that was unmasked. argmax: the most probable digit of every cell in the last round. best: the board
    with fewest violations among every round's proposals and argmaxes.
    """
    best, final = Best.of(puzzles), puzzles

    def look(info: RoundInfo) -> bool:
        nonlocal final
        final = info.optimized.logits.argmax(-1) + 1
        best.look(info.round_index + 1, final)
        best.update(info.clean + 1)
        if watch is not None:
            watch(info.round_index + 1, info.num_rounds, (info.tokens + 1) % 10, info.clean + 1)
        return _is_enough(config, best)

    generation = guided_sample(
        model,
        _reward,
        to_tokens(puzzles),
        estimator="straight_through" if method in UNGUIDED else build_estimator(method),
        num_rounds=config.num_rounds,
        order=config.order,
        num_steps=0 if method in UNGUIDED else config.num_steps,
        lr=config.lr,
        kl_weight=config.kl_weight,
        num_samples=config.num_samples,
        commit=UNGUIDED.get(method, config.commit),
        callback=look,
        generator=generator,
    )
    last = generation.tokens + 1
    best.update(last)
    return Solved(last, final, best.boards, best.curve, generation.evaluations)


def to_tokens(puzzles: Boards) -> Boards:
    """Tokens 0 to 8, and 9, the mask, for blanks; (tokens + 1) % 10 undoes it."""
    return (puzzles - 1) % 10


def _is_enough(config: Config, best: Best) -> bool:
    """Of several attempts at the one puzzle that is shown, the first solution is enough."""
    return bool(config.puzzle) and int(best.violations.min()) == 0


def _reward(x: Tensor) -> Tensor:
    return -sudoku_penalty(x)
