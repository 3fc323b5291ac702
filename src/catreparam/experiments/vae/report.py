"""The report of a VAE study: one row per estimator, means with 95 % intervals over seeds, curves and pictures."""

import itertools
from collections.abc import Sequence
from statistics import fmean, median

import torch

from catreparam.categorical import draw_one_hot
from catreparam.data import ImageDataset
from catreparam.data.digits import BINARISATIONS, binarise
from catreparam.experiments.runs.configs import command_of
from catreparam.experiments.runs.folder import Record, RunFolder, finish
from catreparam.experiments.runs.statistics import band_curves, compare, mean_and_interval
from catreparam.experiments.runs.streams import stream
from catreparam.experiments.vae.config import Config
from catreparam.experiments.vae.run import VaeTask, is_finished, tasks_of, trained_model
from catreparam.models.vae import CONV_WIDTH, CategoricalVAE, default_hidden_sizes
from catreparam.report import Column, Curve, ImageGrid, Plot, Report, Table

RecordsOfSeed = list[list[Record]]  # one list of epochs, in order, per seed

Y_LABEL = "−ELBO (nats per image)"
COLLAPSED = 0.5  # active latents below which a run has not learnt to use its codes
BAND_NOTE = "Mean over seeds; the band is the 95 % interval, with three seeds or more."
COLUMNS = (
    Column("estimator", "estimator"),
    Column("test_negative_elbo", "test −ELBO", ".2f", "test_negative_elbo_ci", lowest_is_best=True),
    Column("difference", "difference to the best", ".2f", "difference_ci"),
    Column("train_negative_elbo", "train −ELBO", ".2f", "train_negative_elbo_ci", lowest_is_best=True),
    Column("test_iwae", "IWAE (test)", ".2f", "test_iwae_ci", lowest_is_best=True),
    Column("test_active_latents", "active latents", ".1f"),
    Column("seconds_per_epoch", "seconds / epoch", ".2f", lowest_is_best=True),
    Column("milliseconds_per_gradient", "ms / gradient", ".2f", lowest_is_best=True),
    Column("seeds", "seeds"),
    Column("state", "state", stays=True),
)
FURTHER_COLUMNS = (
    Column("estimator", "estimator"),
    Column("validation_negative_elbo", "validation −ELBO", ".2f", "validation_negative_elbo_ci", lowest_is_best=True),
    Column("test_kl", "KL (test)", ".2f", "test_kl_ci"),
    Column("best_epoch", "best epoch", ".0f"),
    Column(
        "final_test_negative_elbo", "test −ELBO, last epoch", ".2f", "final_test_negative_elbo_ci", lowest_is_best=True
    ),
)


def report_vae(config: Config, dataset: ImageDataset, folder: RunFolder) -> Report:
    """Writes the report of what the folder holds and returns it."""
    records, specs, tasks = folder.read_metrics(), config.estimators, tasks_of(config, folder.path)
    table = summary_table(records, specs, config.num_epochs, _table_note(config))
    report = Report(
        title=f"Categorical VAE on {config.dataset} ({config.binarisation})",
        summary=f"{len(specs)} estimator{'s' * (len(specs) > 1)}, {config.num_latents} codes of "
        f"{config.num_classes} classes, {config.num_epochs} epochs. Negative ELBO in nats per image: lower is better.",
        table=table,
        plots=learning_curves(records, specs),
        grids=_grids(config, dataset, folder),
        appendix={"Further measures": further_table(table)},
        facts=_facts(config, dataset, folder.machine),
        command=command_of("catreparam run vae", config),
        warning=_collapse_warning(table),
    )
    missing = sum(not is_finished(task, records) for task in tasks)
    return finish(folder, report, unfinished=f"{missing} of {len(tasks)} runs" if missing else "")


def summary_table(records: Sequence[Record], specs: Sequence[str], num_epochs: int, note: str) -> Table:
    """One row per estimator that has finished an epoch, best test −ELBO first."""
    runs = {spec: by_seed(records, spec) for spec in specs}
    compared = compare({spec: {r["seed"]: r["test_negative_elbo"] for r in map(_best, runs[spec])} for spec in specs})
    rows = [_row(spec, runs[spec], num_epochs) if runs[spec] else _empty_row(spec, records) for spec in specs]
    for row in rows:
        if against := compared.get(row["estimator"]):
            row |= {"difference": against["difference"], "difference_ci": against["difference_half"]}
    rows.sort(key=lambda row: (row.get("test_negative_elbo") is None, row.get("test_negative_elbo") or 0.0))
    dull = {column.key for column in COLUMNS if all(row.get(column.key) in (None, "done") for row in rows)}
    return Table([column for column in COLUMNS if column.key not in dull], rows, note)


def further_table(table: Table) -> Table:
    """What the summary table has no room for, from its rows."""
    return Table(FURTHER_COLUMNS, [row for row in table.rows if "best_epoch" in row], table.note)


def learning_curves(records: Sequence[Record], specs: Sequence[str]) -> list[Plot]:
    """Validation, test and train −ELBO by epoch, and validation −ELBO by training time."""
    plots = [
        Plot(
            f"{part.capitalize()} −ELBO", "epoch", Y_LABEL, _curves(records, specs, f"{part}_negative_elbo"), BAND_NOTE
        )
        for part in ("validation", "test", "train")
    ]
    timed = _curves(records, specs, "validation_negative_elbo", by_seconds=True)
    plots.append(Plot("Validation −ELBO by training time", "seconds of training", Y_LABEL, timed, BAND_NOTE))
    return [plot for plot in plots if plot.curves]


def picture_grid(spec: str, model: CategoricalVAE, dataset: ImageDataset, binarisation: str) -> ImageGrid:
    """Rows: test images of every class, their reconstructions, and two rows of samples from the uniform prior."""
    chosen = torch.stack([(dataset.test_labels == label).nonzero()[0, 0] for label in dataset.test_labels.unique()])
    generator = stream(0, "pictures")
    images = binarise(dataset.test[chosen], binarisation, generator=generator)
    model = model.cpu().eval()
    with torch.no_grad():
        codes = draw_one_hot(torch.softmax(model.encode(images), -1), generator)
        uniform = torch.ones(2 * len(chosen), model.num_latents, model.num_classes)
        samples = torch.sigmoid(model.decode(draw_one_hot(uniform, generator)))
        rows = [images, torch.sigmoid(model.decode(codes)), *samples.split(len(chosen))]
    note = "Rows: test images, their reconstructions, and two of samples from the prior (pixel means)."
    return ImageGrid(spec, torch.stack(rows), note)


def by_seed(records: Sequence[Record], spec: str) -> RecordsOfSeed:
    """The finished epochs of an estimator, one list per seed, in order."""
    seeds: dict[int, list[Record]] = {}
    for record in records:
        if record["estimator"] == spec and "diverged" not in record:
            seeds.setdefault(record["seed"], []).append(record)
    return [sorted(epochs, key=lambda record: record["epoch"]) for _, epochs in sorted(seeds.items())]


def _grids(config: Config, dataset: ImageDataset, folder: RunFolder) -> list[ImageGrid]:
    tasks = [VaeTask(config, spec, config.seeds[0], folder.path) for spec in config.estimators]
    models = {task.spec: trained_model(task, dataset) for task in tasks}
    return [picture_grid(spec, model, dataset, config.binarisation) for spec, model in models.items() if model]


def _collapse_warning(table: Table) -> str:
    names = ", ".join(str(row["estimator"]) for row in table.rows if row.get("unranked"))
    remedy = "Train longer, raise --lr or --num-samples, or try other seeds."
    return f"Posterior collapse, no code is used and the values say nothing: {names}. {remedy}" if names else ""


def _table_note(config: Config) -> str:
    bound = f" IWAE: importance-weighted bound with {config.iwae_samples} draws, last epoch." * bool(
        config.iwae_samples
    )
    return (
        f"{config.dataset}, binarisation {config.binarisation}. Values at the epoch with the best validation −ELBO, "
        f"except where the last epoch is named. Measured with {config.num_evaluation_samples} exact draws per image. ± "
        f"is half the 95 % interval over three seeds or more; differences to the best are paired by seed.{bound} "
        "Active latents (last epoch): those whose class probabilities have a variance over test images above "
        "0.01, summed over classes. Seconds are the median training time of an epoch, without evaluation; ms per "
        "gradient that of one step's forward and backward pass."
    )


def _facts(config: Config, dataset: ImageDataset, machine: str) -> dict[str, str]:
    sizes = (
        f"{len(dataset.train):,} training, {len(dataset.validation):,} validation, {len(dataset.test):,} test images"
    )
    default = default_hidden_sizes(dataset.train[0].numel()) if config.network == "mlp" else (CONV_WIDTH,)
    hidden = " ".join(map(str, config.hidden_sizes or default))
    return {
        "data": f"{config.dataset}: {sizes} of {dataset.train.shape[1]}x{dataset.train.shape[2]} pixels",
        "binarisation": f"{config.binarisation}: {BINARISATIONS[config.binarisation]}",
        "codes": f"{config.num_latents} of {config.num_classes} classes, uniform prior, KL in closed form",
        "network": f"{config.network}, {config.activation}, hidden layers {hidden}",
        "optimiser": f"Adam, learning rate {config.lr:g}, batches of {config.batch_size}, {config.num_epochs} epochs",
        "draws per training step": str(config.num_samples),
        "seeds": ", ".join(map(str, config.seeds)),
        "machine": machine,
    }


def _row(spec: str, runs: RecordsOfSeed, num_epochs: int) -> Record:
    best = [_best(epochs) for epochs in runs]
    last = [epochs[-1] for epochs in runs]
    row: Record = {"estimator": spec, "seeds": len(runs), "best_epoch": fmean(record["epoch"] for record in best)}
    for key in ("test_negative_elbo", "validation_negative_elbo", "train_negative_elbo", "test_kl"):
        row[key], row[f"{key}_ci"] = mean_and_interval([record[key] for record in best])
    final = [record["test_negative_elbo"] for record in last]
    row["final_test_negative_elbo"], row["final_test_negative_elbo_ci"] = mean_and_interval(final)
    for key in ("test_iwae", "test_active_latents"):  # measured after the last epoch only
        values = [record[key] for record in last if key in record]
        row[key], row[f"{key}_ci"] = mean_and_interval(values) if values else (None, None)
    if row["test_active_latents"] is not None and row["test_active_latents"] < COLLAPSED:
        row["unranked"] = 1
    row["seconds_per_epoch"] = median(record["seconds"] for epochs in runs for record in epochs)
    clock = [record["gradient_seconds"] for epochs in runs for record in epochs if "gradient_seconds" in record]
    row["milliseconds_per_gradient"] = 1000 * median(clock) if clock else None
    reached = min(record["epoch"] for record in last)
    row["state"] = "done" if reached == num_epochs else f"{reached} of {num_epochs} epochs"
    return row


def _best(epochs: list[Record]) -> Record:
    return min(epochs, key=lambda record: record["validation_negative_elbo"])


def _empty_row(spec: str, records: Sequence[Record]) -> Record:
    diverged = any(record["estimator"] == spec and "diverged" in record for record in records)
    return {"estimator": spec, "seeds": 0, "state": "diverged" if diverged else "not started"}


def _curves(records: Sequence[Record], specs: Sequence[str], key: str, *, by_seconds: bool = False) -> list[Curve]:
    runs = {spec: by_seed(records, spec) for spec in specs}
    return band_curves(
        {spec: [(_x(epochs, by_seconds), [r[key] for r in epochs]) for epochs in runs[spec]] for spec in specs}
    )


def _x(epochs: list[Record], by_seconds: bool) -> list[float]:
    if by_seconds:
        return list(itertools.accumulate(record["seconds"] for record in epochs))
    return [record["epoch"] for record in epochs]
