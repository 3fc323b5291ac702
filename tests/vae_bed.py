"""A tiny VAE run, for the tests of the study and of what survives a kill."""

import pytest
import torch

from catreparam.experiments.runs.folder import RunFolder
from catreparam.experiments.vae import run as vae_runs
from catreparam.experiments.vae.study import Config


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny networks are fastest on one thread, above all beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(folder, **changes):
    values = {
        "estimators": ("straight_through", "redge:num_steps=2,t1=0.9"),
        "dataset": "digits8",
        "num_latents": 4,
        "num_classes": 3,
        "hidden_sizes": (16,),
        "batch_size": 400,
        "num_epochs": 3,
        "num_evaluation_samples": 1,
        "iwae_samples": 2,
        "lr": 5e-3,
        "folder": folder,
    }
    return Config(**{**values, **changes})


def metrics(folder):
    """All records without timings, in an order that does not depend on interruptions."""
    records = [{k: v for k, v in record.items() if "seconds" not in k} for record in RunFolder(folder).read_metrics()]
    return sorted(records, key=lambda record: (record["estimator"], record["seed"], record["epoch"]))


def stop_after(monkeypatch, epochs, error):
    """Makes the training of the epoch after the next `epochs` ones raise."""
    original, left = vae_runs.train_epoch, [epochs]

    def train_epoch(*arguments, **keywords):
        left[0] -= 1
        if left[0] < 0:
            raise error
        return original(*arguments, **keywords)

    monkeypatch.setattr(vae_runs, "train_epoch", train_epoch)
