"""The VAE experiment: what is trained, what is measured, and what survives a kill."""

import dataclasses
import json

import pytest
import torch

from catreparam.data import load_dataset
from catreparam.estimators import ESTIMATORS
from catreparam.experiments.runs.configs import command_of
from catreparam.experiments.runs.estimator_specs import build_estimator
from catreparam.experiments.runs.folder import RunFolder, RunFolderError
from catreparam.experiments.runs.streams import stream
from catreparam.experiments.runs.training import Diverged
from catreparam.experiments.vae import run as vae_runs
from catreparam.experiments.vae import training as vae_training
from catreparam.experiments.vae.report import summary_table
from catreparam.experiments.vae.study import PRESETS, Config, report_folder, run
from catreparam.experiments.vae.training import evaluate, new_state
from vae_bed import metrics, one_thread, stop_after, tiny  # noqa: F401


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae") / "run"
    return folder, run(tiny(folder, seeds=(0, 1)))


def test_a_run_leaves_config_metrics_checkpoints_tables_and_page(finished):
    folder, _ = finished
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert {"config.json", "metrics.jsonl", "table.md", "table.csv", "report.html"} <= names
    assert "checkpoints/redge-num_steps=2-t1=0.9-seed1.safetensors" in names
    assert not [name for name in names if name.endswith(".part")]


def test_every_epoch_records_train_validation_and_test(finished):
    folder, _ = finished
    records = metrics(folder)
    assert len(records) == 2 * 2 * 3
    assert all(
        {"train_loss", "train_negative_elbo", "validation_negative_elbo", "test_negative_elbo", "test_kl"}
        <= set(record)
        for record in records
    )


def test_training_lowers_the_test_negative_elbo(finished):
    folder, _ = finished
    for spec in ("straight_through", "redge:num_steps=2,t1=0.9"):
        values = [r["test_negative_elbo"] for r in metrics(folder) if r["estimator"] == spec and r["seed"] == 0]
        assert values[-1] < values[0] - 1


def test_the_table_is_sorted_and_has_paired_differences_and_no_intervals_from_two_seeds(finished):
    rows = finished[1].table.rows
    assert [row["test_negative_elbo"] for row in rows] == sorted(row["test_negative_elbo"] for row in rows)
    assert all(row["seeds"] == 2 and row["test_negative_elbo_ci"] is None for row in rows)
    assert rows[0]["difference"] == 0.0
    assert rows[1]["difference"] == pytest.approx(rows[1]["test_negative_elbo"] - rows[0]["test_negative_elbo"])
    assert rows[1]["difference_ci"] is None


def test_table_page_and_facts_name_the_binarisation(finished):
    folder, report = finished
    assert "binarisation threshold" in (folder / "table.md").read_text()
    assert "threshold" in report.title
    assert "(threshold)</h1>" in (folder / "report.html").read_text()


def test_estimators_share_initial_weights_and_batches_of_a_seed():
    data = load_dataset("digits8").train
    states = [
        new_state(
            (8, 8),
            estimator=build_estimator(name),
            num_latents=2,
            num_classes=2,
            hidden_sizes=(8,),
            lr=0.0,
            seed=3,
            device="cpu",
        )
        for name in ("straight_through", "redge")
    ]
    for state in states:
        vae_training.train_epoch(state, data, binarisation="threshold", batch_size=400, num_samples=1)
    assert all(map(torch.equal, states[0].model.parameters(), states[1].model.parameters()))
    assert torch.equal(states[0].generators["batches"].get_state(), states[1].generators["batches"].get_state())


def test_evaluation_agrees_with_the_exact_expectation_of_the_elbo():
    """Fails by chance about once in 10,000 seeds; the seed is fixed."""
    model = vae_training.CategoricalVAE((2, 2), num_latents=1, num_classes=2, generator=stream(0, "weights"))
    images = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    logits = model.encode(images)
    losses = [vae_training.negative_elbo(model.decode, images, logits, x.expand(1, 1, 2)) for x in torch.eye(2)]
    exact = (torch.softmax(logits, -1).flatten() * torch.cat(losses)).sum()
    spread = abs(losses[0] - losses[1]).item() / 2
    copies = images.expand(1000, 2, 2)
    drawn = evaluate(model, copies, num_samples=2, generator=stream(0, "codes"))["negative_elbo"]
    assert abs(drawn - exact.item()) < 4 * spread / 2000**0.5 + 1e-5


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_every_estimator_trains_through_the_same_call(tmp_path, name):
    config = tiny(tmp_path / "run", estimators=(name,), num_samples=2, num_epochs=1, batch_size=700)
    assert run(config).table.rows[0]["seeds"] == 1


def test_a_finished_run_only_rebuilds_its_table(finished, monkeypatch):
    folder, report = finished
    monkeypatch.setattr(vae_runs, "train_epoch", None)
    assert run(tiny(folder, seeds=(0, 1))).table == report.table
    assert report_folder(folder).table == report.table


def test_another_config_in_the_same_folder_is_refused_with_the_difference(finished):
    folder, _ = finished
    with pytest.raises(RunFolderError, match=r"lr: 0.005 there, 0.1 here.*another --folder"):
        run(tiny(folder, seeds=(0, 1), lr=0.1))


def test_a_run_that_diverges_is_named_and_does_not_stop_the_others(tmp_path, monkeypatch):
    stop_after(monkeypatch, 0, Diverged("the loss stopped being finite in epoch 1"))
    report = run(tiny(tmp_path))
    assert {row["state"] for row in report.table.rows} == {"diverged"}
    assert [record["diverged"] for record in metrics(tmp_path)] == ["the loss stopped being finite in epoch 1"] * 2


def test_an_infinite_learning_signal_counts_as_diverged():
    state = new_state(
        (8, 8),
        estimator=build_estimator("reinmax"),
        num_latents=2,
        num_classes=2,
        hidden_sizes=(8,),
        lr=1e30,
        seed=0,
        device="cpu",
    )
    data = load_dataset("digits8").train
    with pytest.raises(Diverged, match="finite in epoch 1"):
        vae_training.train_epoch(state, data, binarisation="threshold", batch_size=100, num_samples=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimators": ()}, "at least one estimator"),
        ({"estimators": ("redg",)}, "Did you mean 'redge'"),
        ({"estimators": ("redge", "redge")}, "listed twice"),
        ({"estimators": ("redge:t1=0.5", "redge:t1=5e-1")}, "listed twice"),
        ({"estimators": ("redge:t1",)}, "key=value"),
        ({"estimators": ("redge:",)}, "key=value"),
        ({"estimators": ("redge:t1=0.5,t1=0.6",)}, "given twice"),
        ({"estimators": ("redge:t1=__import__('os')",)}, "cannot read"),
        ({"estimators": ("redge:t_1=0.5",)}, "unknown hyperparameter of redge 't_1'; use t1"),
        ({"estimators": ("redge:t1=2.5",)}, "t1 must be"),
        ({"estimators": ("rloo",)}, "estimator 'rloo'.*at least 2"),
        ({"estimators": ("exact",), "num_latents": 40}, "configurations"),
        ({"network": "transformer"}, "unknown network"),
        ({"activation": "relue"}, "Did you mean 'relu'"),
        ({"num_latents": 2**31}, "num_latents.*at most 1,073,741,824"),
        ({"num_classes": 2**31}, "num_classes.*at most"),
        ({"hidden_sizes": (2**31,)}, "hidden_sizes.*at most"),
        ({"iwae_samples": -1}, "iwae_samples must be at least 0"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"dataset": "digits9"}, "Did you mean 'digits8'"),
        ({"binarisation": "grayscale"}, "Did you mean 'greyscale'"),
        ({"num_epochs": 0}, "num_epochs must be at least 1, got 0"),
        ({"num_classes": 1}, "num_classes"),
        ({"lr": 0.0}, "lr must be"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"device": "abacus"}, "device 'abacus'"),
    ],
)
def test_a_bad_config_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(tiny(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_the_default_folder_depends_on_every_field_that_decides_the_result():
    config = tiny(None)
    others = [dataclasses.replace(config, lr=1e-3), dataclasses.replace(config, seeds=(1,))]
    assert len({str(c.run_folder()) for c in [config, *others]}) == 3
    assert str(config.run_folder()).startswith("runs/vae/digits8-threshold-4x3-")


def test_the_command_of_a_config_names_what_differs_from_the_defaults():
    command = command_of("catreparam run vae", Config(estimators=("redge:t1=0.9", "reinmax"), seeds=(0, 1)))
    assert command == "catreparam run vae --estimators redge:t1=0.9 reinmax --seeds 0 1"


def test_config_json_says_on_which_machine_the_times_were_taken(finished):
    content = json.loads((finished[0] / "config.json").read_text())
    assert "cores" in content["facts"]["machine"]
    assert "torch" in content["facts"]["machine"]


def test_the_last_epoch_records_bound_and_active_latents(finished):
    for record in metrics(finished[0]):
        assert ("test_iwae" in record) == (record["epoch"] == 3)
        if record["epoch"] == 3:
            assert 0 <= record["test_active_latents"] <= 4
            assert record["test_iwae"] < record["test_negative_elbo"]
    assert {"IWAE (test)", "active latents", "ms / gradient"} <= {column.title for column in finished[1].table.columns}


def test_a_finished_checkpoint_keeps_the_model_alone(finished):
    tensors, facts = RunFolder(finished[0]).load_checkpoint("straight_through-seed0")
    assert facts["epoch"] == 3
    assert all(name.startswith("model.") for name in tensors)


def test_runs_side_by_side_give_the_same_numbers(finished, tmp_path):
    report = run(tiny(tmp_path / "jobs", seeds=(0, 1), jobs=2))
    assert metrics(tmp_path / "jobs") == metrics(finished[0])
    values = [
        [{k: v for k, v in row.items() if "second" not in k} for row in r.table.rows] for r in (report, finished[1])
    ]
    assert values[0] == values[1]


def test_reinmax_presets_have_the_published_shapes():
    shapes = [(c.num_classes, c.num_latents) for name, c in PRESETS.items() if name.startswith("reinmax-")]
    assert shapes == [(8, 4), (4, 24), (8, 16), (16, 12), (64, 8), (10, 30)]
    assert all(c.activation == "relu" for name, c in PRESETS.items() if name.startswith("reinmax-"))


def test_the_conv_network_trains_on_relu_and_grey_pixels(tmp_path):
    changes = {"network": "conv", "activation": "relu", "binarisation": "greyscale", "estimators": ("reinmax",)}
    run(tiny(tmp_path, **changes))
    values = [record["test_negative_elbo"] for record in metrics(tmp_path)]
    assert values[-1] < values[0]


def records_of(estimator, active, values):
    numbers = {"train_negative_elbo": 1.0, "validation_negative_elbo": 1.0, "test_kl": 0.0, "seconds": 1.0}
    return [
        {"estimator": estimator, "seed": seed, "epoch": 1, "test_negative_elbo": value, "test_active_latents": active}
        | numbers
        for seed, value in enumerate(values)
    ]


def test_a_collapsed_run_is_never_the_best():
    records = [*records_of("redge", 0.0, [100.0, 100.0]), *records_of("reinmax", 4.0, [120.0, 122.0])]
    records += records_of("rloo", 4.0, [130.0, 131.0])
    table = summary_table(records, ["redge", "reinmax", "rloo"], 1, "")
    (column,) = [column for column in table.columns if column.key == "test_negative_elbo"]
    best = table.best_row(column)
    assert [row["estimator"] for row in table.rows] == ["redge", "reinmax", "rloo"]
    assert best == 1
    assert "unranked" not in [column.key for column in table.columns]
    assert "±" not in column.show(table.rows[0])  # two seeds give no interval


def test_a_collapse_is_a_warning_and_default_layers_are_named(tmp_path):
    report = run(tiny(tmp_path / "run", estimators=("straight_through",), num_epochs=1, lr=1e-9, hidden_sizes=()))
    assert "Posterior collapse, no code is used and the values say nothing: straight_through." in report.warning
    assert report.facts["network"].endswith("hidden layers 128 64")
