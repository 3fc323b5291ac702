"""Rebuilds the studies under docs/results: polynomial programming, the categorical VAE on three latent shapes, the law.

python scripts/reproduce.py [--only STUDY ... | --more | --paper] [--tune] [--jobs N]

Every study is a command of catreparam with a run folder under runs/reproduce; the same call goes on after a kill.
Tables, pages and the pictures of the documentation are copied to docs/results/STUDY. Hyperparameters come from its
settings.json; --tune searches them anew first (half as long again). --more runs the further study, of more epochs,
--paper those at the size of the paper: all of MNIST, then Fashion-MNIST, for hours.
"""

import argparse
import importlib
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from catreparam.cli import main as catreparam
from catreparam.experiments import STUDIES as MODULES
from catreparam.experiments.runs.folder import Record, RunFolder
from catreparam.experiments.runs.statistics import compare
from catreparam.report import Column, Plot, Report, Table, to_csv, to_markdown
from catreparam.report.figures import plot_to_svg

RUNS, RESULTS = Path("runs/reproduce"), Path("docs/results")

VAE_ESTIMATORS = "straight_through gumbel_softmax gumbel_rao:num_noises=10 reinmax redge exact_redge rloo reinmax_rloo"
POLYNOMIAL_ESTIMATORS = (
    "straight_through gumbel_softmax gumbel_rao:num_noises=10 reinmax redge reindge exact_redge rloo reinmax_rloo"
)
OURS = "reinmax_rloo"
FIVE = "straight_through gumbel_softmax reinmax redge exact_redge"
FULL_SIZE_ESTIMATORS = (
    "straight_through gumbel_softmax gumbel_rao:num_noises=10 reinmax redge redge_cov reindge "
    "exact_redge:second_order_weight=0 exact_redge lambda_reinmax"
)
TOKEN_ESTIMATORS = (
    "straight_through gumbel_softmax reinmax redge redge_cov reindge exact_redge exact_redge:t1=0.7,num_noises=4"
)
AT_DEFAULTS = FULL_SIZE_ESTIMATORS.replace(
    "exact_redge:second_order_weight=0 exact_redge", "exact_redge exact_redge:second_order_weight=1"
)
BEYOND = (
    "gumbel_softmax:temperature=0.1 gumbel_softmax:temperature=0.05 gumbel_softmax:temperature=0.02 "
    "gumbel_softmax:temperature=0.01 gumbel_rao:num_noises=10,temperature=0.1 "
    "gumbel_rao:num_noises=10,temperature=0.05 gumbel_rao:num_noises=10,temperature=0.02 redge:t1=0.3,num_steps=6 "
    "redge:t1=0.2,num_steps=6 redge:t1=0.1,num_steps=6 redge:t1=0.1,num_steps=11 redge_cov:t1=0.2,num_steps=6 "
    "redge_cov:t1=0.1,num_steps=6 redge_cov:t1=0.1,num_steps=11 exact_redge:t1=0.2,second_order_weight=0 "
    "exact_redge:t1=0.1,second_order_weight=0"
)
"""Beyond the ranges that searches look at."""
FULL_SIZE_SETTINGS = "vae-mnist-48x2/search-run"
FULL_SIZE_SEARCH = "--num-trials 8 --search-seeds 1000 --lr-range 5e-4 3e-3 --vae.num-epochs 20"
RIVALS = ("straight_through", "gumbel_softmax", "gumbel_rao:num_noises=10", "reinmax", "redge", OURS)


@dataclass(frozen=True)
class Study:
    """A command, its options, the options of its search, and the titles of the plots that the documentation shows."""

    command: str
    options: str
    search: str = ""
    plots: tuple[str, ...] = ()
    seeds: str = "--seeds 0 1 2"
    title: str = ""
    settings_of: str = ""
    """The folder of docs/results whose hyperparameters it takes, if not its own."""
    asked_by: str = ""
    """The option that asks for it, "more" or "paper"; "": none is needed."""


def vae(
    num_latents: int, num_classes: int, activation: str, estimators: str = VAE_ESTIMATORS, num_epochs: int = 20
) -> Study:
    """Four draws a step; the search sees 15 of the 20 epochs."""
    return Study(
        "sweep vae",
        f"--estimators {estimators} --vae.dataset mnist5k --vae.num-latents {num_latents} "
        f"--vae.num-classes {num_classes} --vae.activation {activation} --vae.num-epochs {num_epochs} "
        "--vae.num-samples 4 --vae.num-evaluation-samples 2 --vae.iwae-samples 64",
        search="--num-trials 6 --search-seeds 1000 --lr-range 5e-4 3e-3 --vae.num-epochs 15",
        plots=("Test −ELBO", "Train −ELBO"),
        seeds="--seeds 0 1 2 3 4",
        title=f"{num_latents} codes of {num_classes}",
    )


def longer(settings_of: str, num_epochs: int, num_latents: int, num_classes: int, activation: str) -> Study:
    """A VAE study with more epochs, the settings of the shorter one, and only RIVALS."""
    study = vae(num_latents, num_classes, activation, " ".join(RIVALS), num_epochs)
    return replace(study, search="", settings_of=settings_of, asked_by="more")


def polynomial(power: str) -> Study:
    """Two draws a step, which `rloo` needs."""
    return Study(
        "sweep polynomial",
        f"--estimators {POLYNOMIAL_ESTIMATORS} --polynomial.powers {power} --polynomial.num-samples 2",
        search="--num-trials 6 --search-seeds 1000",
        plots=("Gap to the optimum",),
    )


def one_draw(power: str) -> Study:
    """The paper's setting: one draw a step and learning rate 0.05, with those of its own variants."""
    return Study(
        "sweep polynomial",
        f"--estimators {FULL_SIZE_ESTIMATORS} --polynomial.powers {power}",
        search="--num-trials 24 --search-seeds 1000 --lr-range 0.05 0.05",
        plots=("Gap to the optimum",),
    )


def full_size(dataset: str, estimators: str, num_epochs: int, **facts: str) -> Study:
    """The paper's network, one draw a step, on a whole data set; the search sees 20 epochs."""
    return Study(
        "sweep vae",
        f"--estimators {estimators} --vae.dataset {dataset} --vae.num-latents 48 --vae.num-classes 2 "
        f"--vae.batch-size 200 --vae.num-epochs {num_epochs} --vae.num-evaluation-samples 2",
        plots=("Test −ELBO", "Train −ELBO"),
        asked_by="paper",
        **facts,
    )


STUDIES = {
    "polynomial-1.5": polynomial("1.5"),
    "polynomial-2": polynomial("2"),
    "polynomial-3": polynomial("3"),
    "polynomial-one-draw-1.5": one_draw("1.5"),
    "polynomial-one-draw-2": one_draw("2"),
    "polynomial-one-draw-3": one_draw("3"),
    "polynomial-defaults": Study("run polynomial", f"--estimators {AT_DEFAULTS}"),
    "polynomial-beyond": Study("run polynomial", f"--powers 1.5 --estimators {BEYOND}"),
    "law": Study("run law", "", plots=("Total variation, t1 = 0.1", "Total variation, t1 = 0.5")),
    "vae-48x2": vae(48, 2, "leaky_relu"),
    "vae-reinmax-8x4": vae(4, 8, "relu"),
    "vae-reinmax-4x24": vae(24, 4, "relu"),
    # Does the order last?
    "vae-48x2-longer": longer("vae-48x2", 80, 48, 2, "leaky_relu"),
    "vae-mnist-48x2": full_size(
        "mnist", FULL_SIZE_ESTIMATORS, 60, search=FULL_SIZE_SEARCH, settings_of=FULL_SIZE_SETTINGS
    ),
    "image-tokens": Study(
        "guide",
        f"--reward class:all --estimator {TOKEN_ESTIMATORS} --rivals unguided best_of_n svdd smc entrgi "
        "--kl-weights 0.02 0.05 0.1 0.2 0.5 --num-images 100",
        plots=("Held-out accuracy against KL",),
        seeds="--seeds 0 1 2 3 4",
        asked_by="paper",
    ),
    # Does the order carry over?
    "vae-fashion-48x2": full_size("fashion_mnist", FIVE, 50, settings_of=FULL_SIZE_SETTINGS),
}
VAES = ("vae-48x2", "vae-reinmax-8x4", "vae-reinmax-4x24")
EPOCHS = (10, 20, 30, 40, 50, 80)  # what the longer studies are compared after


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    only = {"nargs": "+", "choices": STUDIES, "default": [], "metavar": "STUDY", "help": ", ".join(STUDIES)}
    parser.add_argument("--only", **only)
    parser.add_argument("--more", action="store_true", help="the further study instead: more epochs")
    parser.add_argument("--paper", action="store_true", help="those at the paper's size instead (hours)")
    parser.add_argument("--tune", action="store_true", help="search the hyperparameters anew")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side, each on one thread")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    asked = "paper" if arguments.paper else "more" if arguments.more else ""
    for name in arguments.only or [name for name, study in STUDIES.items() if study.asked_by == asked]:
        print(f"\n== {name}, after {(time.perf_counter() - begin) / 60:.0f} min", flush=True)
        reproduce(name, tune=arguments.tune, jobs=arguments.jobs)
    if finished(VAES):
        compare_shapes()
    for name, study in STUDIES.items():
        if study.asked_by == "more" and finished([name]):
            compare_epochs(name)
    print(f"\nAll done in {(time.perf_counter() - begin) / 60:.0f} min.")
    return 0


def reproduce(name: str, *, tune: bool, jobs: int) -> None:
    """One study: its search if asked for, its runs, and what the documentation shows of them."""
    study, options = STUDIES[name], STUDIES[name].options
    settings = RESULTS / (study.settings_of or name) / "settings.json"
    if tune and study.search:
        folder = RUNS / f"{name}-search"
        run(study, f"{options} {study.search} --seeds", folder, jobs)
        publish(folder, RESULTS / name / "search")
        shutil.copy(folder / "settings.json", settings)
    given = f" --settings {settings}" if study.search or study.settings_of else ""
    run(study, f"{options} {study.seeds}{given}", RUNS / name, jobs)
    publish(RUNS / name, RESULTS / name)
    draw(study, name, RUNS / name)


def run(study: Study, options: str, folder: Path, jobs: int) -> None:
    """Runs or resumes a command; ends the script as the command ends."""
    status = catreparam([*study.command.split(), *options.split(), "--jobs", str(jobs), "--folder", str(folder)])
    if status:
        sys.exit(status)


def publish(folder: Path, target: Path) -> None:
    """Copies the page, which holds every table, and the tables as CSV; what only serves to resume stays."""
    target.mkdir(parents=True, exist_ok=True)
    for path in [folder / "report.html", *folder.glob("*.csv")]:
        shutil.copy(path, target)


def draw(study: Study, name: str, folder: Path) -> None:
    """The plots that the documentation shows, as pictures of their own."""
    report: Report = importlib.import_module(MODULES[study.command]).report_folder(folder)
    labels = list(dict.fromkeys(curve.label for plot in report.plots for curve in plot.curves))
    for plot in report.plots:
        if plot.title in study.plots:
            (RESULTS / name / f"{slug(plot)}.svg").write_text(plot_to_svg(plot, labels), encoding="utf-8")


def finished(studies: Iterable[str]) -> bool:
    """Whether all of these studies have run."""
    return all((RUNS / name / "report.html").exists() for name in studies)


def compare_shapes() -> None:
    """docs/results/vae.md and .csv: the latent shapes side by side, against our best estimator."""
    note = "± is half the 95 % interval over five seeds (Student's t); differences are paired by seed."
    studies = [(name, STUDIES[name].title, final_values(name)) for name in VAES]
    write_comparison("vae", "Test −ELBO of tuned categorical VAEs", versus_ours(studies, VAE_ESTIMATORS.split(), note))


def compare_epochs(name: str) -> None:
    """docs/results/NAME.md and .csv: differences to OURS had the training ended after so many epochs."""
    length = max(run["curves"]["step"][-1] for run in final_runs(name))
    rows: list[Record] = [{"estimator": estimator} for estimator in RIVALS]
    columns = [Column("estimator", "estimator")]
    for epochs in [count for count in EPOCHS if count <= length]:
        compared = compare(values_within(name, epochs), reference=OURS)
        for row in rows:
            one, ours = compared[row["estimator"]], row["estimator"] == OURS
            row[f"{epochs}"] = one["mean" if ours else "difference"]
            row[f"{epochs}-half"] = None if ours else one["difference_half"]
        columns.append(Column(f"{epochs}", f"{epochs} epochs", ".2f", f"{epochs}-half"))
    note = (
        f"Test −ELBO at the best validation epoch so far: of {OURS}, and of the others above it. ± is half the 95 % "
        "interval over five seeds (Student's t), paired by seed."
    )
    table = Table(columns, rows, note)
    write_comparison(name, f"By length of training: {STUDIES[name].title}", table, "make reproduce-more")


def values_within(name: str, epochs: int) -> dict[str, dict[int, float]]:
    """Test −ELBO by estimator and seed at the best validation epoch of the first `epochs`."""
    values: dict[str, dict[int, float]] = {}
    for run in final_runs(name):
        validation, test = (run["curves"][f"{part}_negative_elbo"][:epochs] for part in ("validation", "test"))
        values.setdefault(run["estimator"], {})[run["number"]] = test[validation.index(min(validation))]
    return values


def write_comparison(name: str, title: str, table: Table, command: str = "make reproduce") -> None:
    """A table over studies, as Markdown and CSV."""
    report = Report(title, "Nats per image, lower is better.", table, command=command)
    (RESULTS / f"{name}.md").write_text(to_markdown(report), encoding="utf-8")
    (RESULTS / f"{name}.csv").write_text(to_csv(report), encoding="utf-8")


def final_runs(study: str) -> list[Record]:
    """The finished final runs of a study."""
    runs = RunFolder(RUNS / study).read_metrics()
    return [run for run in runs if run["phase"] == "final" and run["state"] == "complete"]


def final_values(study: str) -> dict[str, dict[int, float]]:
    """Test −ELBO by estimator and seed."""
    values: dict[str, dict[int, float]] = {}
    for run in final_runs(study):
        values.setdefault(run["estimator"], {})[run["number"]] = run["test"]
    return values


def versus_ours(
    studies: list[tuple[str, str, dict[str, dict[int, float]]]], estimators: Sequence[str], note: str = ""
) -> Table:
    """For every study (key, title, values) two columns: an estimator's mean and interval, its paired difference to
    OURS."""
    rows: list[Record] = [{"estimator": name} for name in estimators]
    columns = [Column("estimator", "estimator")]
    for key, title, values in studies:
        compared = compare({name: values[name] for name in estimators}, reference=OURS)
        for row in rows:
            row |= {f"{key}-{field}": value for field, value in compared[row["estimator"]].items()}
        columns.append(Column(f"{key}-mean", title, ".2f", f"{key}-half", lowest_is_best=True))
        columns.append(Column(f"{key}-difference", f"above {OURS}", ".2f", f"{key}-difference_half"))
    return Table(columns, rows, note)


def slug(plot: Plot) -> str:
    """Test −ELBO -> test-elbo."""
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in plot.title.lower()).split()
    return "-".join(words)


if __name__ == "__main__":
    sys.exit(main())
