"""Train the Sudoku prior: a looped transformer that restores masked cells of solved boards.

First it digs training puzzles (none is a held-back one), then it trains and keeps the moving average of the weights at
three lengths, short, medium and long, in the run folder under weights/. Both parts resume after a kill; give the same
command. The weights that come with the package were made by `catreparam run sudoku-prior`, and copied from that folder.
"""

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from catreparam.data.sudoku import CLUES, check_no_overlap, format_puzzle, held_back_puzzles, read_puzzle
from catreparam.data.sudoku_solver import Board, dig, random_solution
from catreparam.experiments.runs.configs import command_of, config_of_folder, identity_of
from catreparam.experiments.runs.folder import (
    Interrupted,
    Record,
    RunFolder,
    RunFolderError,
    finish,
    open_run_folder,
    writing,
)
from catreparam.experiments.runs.machine import describe_machine
from catreparam.experiments.runs.progress import Progress, show_progress
from catreparam.experiments.runs.records import Count, Number, Seconds, line
from catreparam.experiments.runs.training import resume, to_tensors
from catreparam.experiments.sudoku.board import boards_to_tensor
from catreparam.experiments.sudoku.training import new_prior_state, train_step
from catreparam.report import Column, Curve, Plot, Report, Table
from catreparam.validation import check_count, check_number


@line
class Steps(TypedDict):
    """The mean loss of the steps since the line before."""

    step: Count
    loss: Number
    seconds: Seconds


LINES = TypeAdapter(Steps)
LENGTHS = {"short": 1 / 16, "medium": 1 / 4, "long": 1.0}  # of num_steps
STEPS_A_RECORD = 20
PUZZLE_FILE = "training_puzzles.txt"
COLUMNS = (
    Column("length", "length"),
    Column("step", "steps"),
    Column("boards", "boards seen", ","),
    Column("loss", "cross-entropy (nats a masked cell)", ".3f"),
    Column("seconds", "seconds", ".0f"),
    Column("file", "weights"),
)


@dataclass(frozen=True)
class Config:
    """What to train. The defaults made the shipped weights: about 15 minutes of one idle core."""

    num_steps: int = 1600
    """Steps of AdamW; the short and medium priors are the averages after a sixteenth and a quarter of them."""
    batch_size: int = 64
    """Boards in a step."""
    lr: float = 2e-3
    """Constant after a warm-up of 100 steps, then falling to zero over the last quarter."""
    num_puzzles: int = 2000
    """Puzzles dug for training, as hard as digging makes them; shuffled by Sudoku's symmetries in every batch."""
    seed: int = 0
    """Of weights, boards and masks."""
    folder: Path | None = None
    """Run folder; default runs/sudoku-prior. The same command resumes there."""

    def checked(self) -> "Config":
        """This config. Raises ValueError or TypeError naming the bad value."""
        for name in ("batch_size", "num_puzzles"):
            check_count(name, getattr(self, name))
        check_count("num_steps", self.num_steps, 16)
        check_number("lr", self.lr, above=0.0)
        return self

    def lr_at(self, step: int) -> float:
        """The learning rate of a step."""
        return self.lr * min(1.0, (self.num_steps - step) / (self.num_steps / 4))

    def lengths(self) -> dict[int, str]:
        """Steps after which weights are kept, and what they are called."""
        return {max(1, round(share * self.num_steps)): name for name, share in LENGTHS.items()}


PRESETS = {"paper": Config(), "quick": Config(num_steps=96, num_puzzles=200, folder=Path("runs/sudoku-prior-quick"))}


def run(config: Config) -> Report:
    """Trains what is not trained yet, writes weights and report into the run folder and returns the report.

    Raises: Interrupted on Ctrl-C, with the report so far; RunFolderError, WriteFailed as their names say.
    """
    config = config.checked()
    path = config.folder or Path("runs/sudoku-prior")
    facts = {"machine": describe_machine()}
    identity = identity_of(config)
    with open_run_folder(path, experiment="sudoku-prior", config=identity, facts=facts, lines=LINES) as folder:
        try:
            with show_progress() as progress:
                puzzles, solutions = _training_puzzles(config, folder, progress)
                _train(config, folder, puzzles, solutions, progress)
        except KeyboardInterrupt:
            raise Interrupted(_write_report(config, folder), folder.path) from None
        return _write_report(config, folder)


def report_folder(path: Path) -> Report:
    """Writes the report of a run folder anew and returns it. Trains nothing."""
    config, folder = config_of_folder(Config, path, LINES)
    return _write_report(config, folder)


def _train(config: Config, folder: RunFolder, puzzles: list[Board], solutions: list[Board], progress: Progress) -> None:
    state = new_prior_state(config.seed, config.lr)
    state.step = resume(folder, "prior", state.parts(), unit="step")
    if state.step >= config.num_steps:
        return
    progress.start("training", total=config.num_steps // STEPS_A_RECORD, done=state.step // STEPS_A_RECORD)
    boards, targets = boards_to_tensor(puzzles), boards_to_tensor(solutions)
    losses, began = [], time.perf_counter()
    while state.step < config.num_steps:
        lr = config.lr_at(state.step)
        losses.append(train_step(state, boards, targets, batch_size=config.batch_size, lr=lr))
        kept = config.lengths().get(state.step)
        if kept:
            tensors = {name: tensor.half().contiguous() for name, tensor in state.average.items()}
            folder.write(f"weights/sudoku_{kept}.safetensors", safetensors.torch.save(tensors))
        if state.step % STEPS_A_RECORD == 0 or state.step == config.num_steps:
            loss = sum(losses) / len(losses)
            folder.append_metrics({"step": state.step, "loss": loss, "seconds": time.perf_counter() - began})
            folder.save_checkpoint("prior", to_tensors(state.parts()), {"step": state.step})
            if state.step % STEPS_A_RECORD == 0:
                progress.advance("training", f"loss {loss:.3f}")
            losses, began = [], time.perf_counter()


def _training_puzzles(config: Config, folder: RunFolder, progress: Progress) -> tuple[list[Board], list[Board]]:
    """Puzzles and their solutions, dug where the file lacks them. Puzzle i depends on the seed and i only."""
    path = folder.path / PUZZLE_FILE
    lines = path.read_text(encoding="ascii", errors="replace").split("\n")[:-1] if path.exists() else []
    if len(lines) < config.num_puzzles:
        progress.start("digging puzzles", total=config.num_puzzles, done=len(lines))
        folder.write(PUZZLE_FILE, "".join(f"{line}\n" for line in lines))  # without a line cut short
        with writing(path), path.open("a", encoding="ascii") as file:
            for index in range(len(lines), config.num_puzzles):
                rng = random.Random(f"sudoku training {config.seed} {index}")
                solution = random_solution(rng)
                lines.append(f"{format_puzzle(dig(solution, 0, rng))} {format_puzzle(solution)}")
                file.write(lines[-1] + "\n")
                file.flush()
                progress.advance("digging puzzles", "")
            os.fsync(file.fileno())
        solutions = [_read_pair(path, number, text)[1] for number, text in enumerate(lines, start=1)]
        check_no_overlap(solutions, [puzzle for level in CLUES for puzzle in held_back_puzzles(level)])
    pairs = [_read_pair(path, number, text) for number, text in enumerate(lines[: config.num_puzzles], start=1)]
    return [puzzle for puzzle, _ in pairs], [solution for _, solution in pairs]


def _read_pair(path: Path, number: int, text: str) -> tuple[Board, Board]:
    """Puzzle and solution of a line of the file. Raises RunFolderError for anything else."""
    try:
        puzzle, solution = map(read_puzzle, text.split())
        if 0 in solution or any(clue not in (0, digit) for clue, digit in zip(puzzle, solution, strict=True)):
            raise ValueError("the solution is not one of the puzzle")
    except ValueError as error:
        raise RunFolderError(f"{path}, line {number} is damaged ({error}); delete the file to dig it again") from error
    return puzzle, solution


def _write_report(config: Config, folder: RunFolder) -> Report:
    records = folder.read_metrics()
    rows = [_row(config, name, step, records, folder) for step, name in config.lengths().items()]
    done = records[-1]["step"] if records else 0
    unfinished = f"{done} of {config.num_steps} steps" if done < config.num_steps else ""
    steps, losses = [record["step"] for record in records], [record["loss"] for record in records]
    report = Report(
        title="Sudoku prior",
        summary=f"Cross-entropy of masked cells, {config.num_steps} steps on batches of {config.batch_size} boards.",
        table=Table(COLUMNS, [row for row in rows if row]),
        plots=[Plot("Training", "step", "nats a masked cell", [Curve("last loop", steps, losses)])] if records else [],
        facts={"machine": folder.machine, "puzzles": f"{config.num_puzzles}, seed {config.seed}"},
        command=command_of("catreparam run sudoku-prior", config),
    )
    return finish(folder, report, unfinished=unfinished)


def _row(config: Config, name: str, step: int, records: list[Record], folder: RunFolder) -> Record | None:
    path = folder.path / "weights" / f"sudoku_{name}.safetensors"
    place = next((i for i, record in enumerate(records) if record["step"] >= step), None)
    if not path.exists() or place is None:
        return None
    seconds = sum(record["seconds"] for record in records[: place + 1])
    row = {"length": name, "step": step, "boards": step * config.batch_size, "loss": records[place]["loss"]}
    return row | {"seconds": seconds, "file": str(path)}
