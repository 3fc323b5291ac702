"""Rebuilds the studies under docs/results: polynomial programming, the categorical VAE on three latent shapes, the law.

python scripts/reproduce.py [--only STUDY ... | --more | --paper] [--tune] [--jobs N]

Every study is a command of catreparam with a run folder under runs/reproduce; the same call goes on after a kill.
Tables, pages and the pictures of the documentation are copied to docs/results/STUDY. Hyperparameters come from its
settings.json; --tune searches them anew first (half as long again). --more runs further ones: a VAE of more epochs, the
polynomial with other settings. --paper: those at the size of the paper (all of MNIST, Fashion-MNIST), guided image
tokens and Sudoku, for hours.
"""

import argparse
import importlib
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from studies import OURS, RIVALS, STUDIES, VAE_ESTIMATORS, Study

from catreparam.cli import main as catreparam
from catreparam.experiments import STUDIES as MODULES
from catreparam.experiments.runs.folder import Record, RunFolder
from catreparam.experiments.runs.statistics import compare
from catreparam.report import Column, Report, Table, to_csv, to_markdown
from catreparam.report.figures import plot_to_svg

RUNS, RESULTS = Path("runs/reproduce"), Path("docs/results")

VAES = ("vae-48x2", "vae-reinmax-8x4", "vae-reinmax-4x24")
EPOCHS = (10, 20, 30, 40, 50, 80)  # what the longer studies are compared after


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    only = {"nargs": "+", "choices": STUDIES, "default": [], "metavar": "STUDY", "help": ", ".join(STUDIES)}
    parser.add_argument("--only", **only)
    parser.add_argument("--more", action="store_true", help="further ones instead: more epochs, other settings")
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
        if study.asked_by == "more" and study.settings_of and finished([name]):
            compare_epochs(name)
    print(f"\nAll done in {(time.perf_counter() - begin) / 60:.0f} min.")
    return 0


def reproduce(name: str, *, tune: bool, jobs: int) -> None:
    """One study: its search if asked for, its runs, and what the documentation shows of them."""
    study, options = STUDIES[name], STUDIES[name].options
    settings = RESULTS / (study.settings_of or name) / "settings.json"
    given = f" --settings {settings}" if study.search or study.settings_of else ""
    search = RUNS / f"{name}-search" if tune and study.search else None
    if search:
        run(study, f"{options} {study.search} --seeds", search, jobs)
    with replaced(settings, search / "settings.json") if search else nullcontext():
        run(study, f"{options} {study.seeds}{given}", RUNS / name, jobs)
    if search:
        publish(search, RESULTS / name / "search", raw=study.raw)
    publish(RUNS / name, RESULTS / name, raw=study.raw)
    draw(study, name, RUNS / name)


@contextmanager
def replaced(path: Path, by: Path) -> Iterator[None]:
    """Copies the file `by` to `path`, which gets its earlier content back if the block fails."""
    earlier = path.read_bytes() if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(by, path)
    try:
        yield
    except BaseException:
        path.unlink() if earlier is None else path.write_bytes(earlier)
        raise


def run(study: Study, options: str, folder: Path, jobs: int) -> None:
    """Runs or resumes a command; ends the script as the command ends."""
    status = catreparam([*study.command.split(), *options.split(), "--jobs", str(jobs), "--folder", str(folder)])
    if status:
        sys.exit(status)


def publish(folder: Path, target: Path, *, raw: bool) -> None:
    """Copies the page, which holds every table, and the tables as CSV; `raw`: what its command goes on by, too."""
    target.mkdir(parents=True, exist_ok=True)
    more = [folder / "metrics.jsonl", folder / "config.json"] if raw else []
    for path in [folder / "report.html", *folder.glob("*.csv"), *more]:
        shutil.copy(path, target)


def draw(study: Study, name: str, folder: Path) -> None:
    """The plots that the documentation shows, as pictures of their own."""
    report: Report = importlib.import_module(MODULES[study.command]).report_folder(folder)
    labels = list(dict.fromkeys(curve.label for plot in report.plots for curve in plot.curves))
    for plot in report.plots:
        if plot.title in study.plots:
            (RESULTS / name / f"{slug(plot.title)}.svg").write_text(plot_to_svg(plot, labels), encoding="utf-8")


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


def slug(title: str) -> str:
    """Test −ELBO -> test-elbo."""
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in title.lower()).split())


if __name__ == "__main__":
    sys.exit(main())
