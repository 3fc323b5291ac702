"""Design parts of an antibody towards properties: AntiBERTy, a pretrained language model, guided by a reward.

Everything outside the designed positions stays. The table compares estimators and other methods at equal evaluations,
by judges that nothing optimised; the folder has the designs as FASTA and CSV. `catreparam data antiberty` first.
"""

import time
from pathlib import Path
from typing import Annotated

from annotated_types import Len
from pydantic import AfterValidator, TypeAdapter
from typing_extensions import TypedDict

from catreparam.experiments.guide.antibody.config import Config
from catreparam.experiments.guide.antibody.judges import diversity, judge
from catreparam.experiments.guide.antibody.presets import PRESETS
from catreparam.experiments.guide.antibody.report import report_designs
from catreparam.experiments.guide.antibody.targets import class_probabilities, make_reward
from catreparam.experiments.guide.antibody.weights import load_prior
from catreparam.experiments.guide.methods import generate, is_gradient_method
from catreparam.experiments.runs.cells import run_cells
from catreparam.experiments.runs.configs import config_of_folder
from catreparam.experiments.runs.folder import Record
from catreparam.experiments.runs.records import Number, Seconds, line
from catreparam.experiments.runs.streams import stream
from catreparam.models.antiberty import FIRST_RESIDUE
from catreparam.objectives.residues import RESIDUES
from catreparam.report import Report

__all__ = ["PRESETS", "Config", "report_folder", "run"]


@line
class Step(TypedDict):
    """A step of an optimisation, means over the designs."""

    reward: Number
    kl: Number


@line
class Designed(TypedDict):
    """The designs of one cell."""

    sequence: str
    method: str
    strength: Number
    seed: int
    designs: Annotated[list[str], Len(1)]
    reward: Annotated[list[Number], Len(1)]
    prior_log_prob: Annotated[list[Number], Len(1)]
    kl: list[Number] | None
    evaluations: Number
    seconds: Seconds
    diversity: Number | None
    scores: dict[str, list[Number | None]]
    trace: list[Step]


def _level(record: Designed) -> Designed:
    columns = [record["reward"], record["prior_log_prob"], record["kl"] or record["reward"], *record["scores"].values()]
    if any(len(column) != len(record["designs"]) for column in columns):
        raise ValueError("the designs and their reward, prior_log_prob, kl and scores are not as many")
    if {letter for design in record["designs"] for letter in design} - set(RESIDUES):
        raise ValueError("a design holds letters that are no residues")
    return record


LINES = TypeAdapter(Annotated[Designed, AfterValidator(_level)])


def run(config: Config) -> Report:
    """Designs what is missing, writes report, FASTA and CSV into the run folder, and returns the report.

    Raises: ValueError for bad settings; MissingData without weights; RunFolderError, WriteFailed as their names say.
        After a kill the same command goes on, within a cell from its last round.
    """
    config = config.checked()
    load_prior(config.model, config.precision)  # missing or damaged weights are one error now, not one for every cell
    with run_cells("guide antibody", config, config.keys(), design_cell, config.run_folder(), LINES) as folder:
        return report_designs(config, folder)


def report_folder(path: Path) -> Report:
    """Writes the report of a run folder anew and returns it. Designs nothing."""
    config, folder = config_of_folder(Config, path, LINES)
    return report_designs(config, folder)


def design_cell(config: Config, sequence: str, method: str, strength: float, seed: int) -> Record:
    """Designs of one sequence by one method: their reward, KL, likelihood, properties and judges."""
    (antibody,) = (antibody for antibody in config.antibodies() if antibody.name == sequence)
    model = load_prior(config.model, config.precision)
    measures, targets = config.measures, config.targets()
    place = config.run_folder() / "generations"  # what a killed generation goes on from
    place.mkdir(parents=True, exist_ok=True)
    state = place / f"{sequence}-{method}-{strength:g}-{seed}.state".replace(":", "-").replace(",", "-")
    began = time.perf_counter()
    generation = generate(
        method,
        strength,
        model,
        make_reward(targets, measures, antibody, model),
        antibody.tokens().repeat(config.num_designs, 1),
        budget=config.budget,
        codebook=model.language_model.bert.embeddings.word_embeddings.weight[FIRST_RESIDUE:].float(),
        lr=config.lr,
        num_samples=config.num_samples,
        order=config.order,
        checkpoint=state,
        generator=stream(seed, f"design of {sequence}"),
    )
    seconds = time.perf_counter() - began
    state.unlink(missing_ok=True)
    designs = ["".join(RESIDUES[token] for token in row) for row in generation.tokens.tolist()]
    spent = generation.evaluations
    lot = stream(seed, f"judged positions of {sequence}")
    judged = judge(designs, antibody, model, ph=config.ph, pll_positions=config.pll_positions, generator=lot)
    return {
        "designs": designs,
        "reward": generation.reward.tolist(),
        "prior_log_prob": generation.prior_log_prob.tolist(),
        "kl": None if generation.kl is None else generation.kl.tolist(),
        "evaluations": spent.model + spent.reward + spent.reward_gradient,
        "model_evaluations": spent.model,
        "seconds": seconds,
        "diversity": diversity(designs, antibody.positions),
        "scores": {**measures.all_of(designs, antibody), **class_probabilities(targets, designs, model), **judged},
        "trace": generation.trace.rows if is_gradient_method(method) else [],
    }
