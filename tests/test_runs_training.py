"""What changes while a network trains goes into a checkpoint and comes back, with the metrics that belong to it."""

import torch
from torch import Generator, nn

from catreparam.experiments.runs.estimator_specs import build_estimator
from catreparam.experiments.runs.folder import RunFolder
from catreparam.experiments.runs.training import load_tensors, resume, to_tensors


def parts(seed: int) -> dict:
    """A network that has made a step, and everything else that a study may keep."""
    torch.manual_seed(seed)
    model, generator, estimator = nn.Linear(2, 1), Generator().manual_seed(seed), build_estimator("reinforce")
    adam = torch.optim.Adam(model.parameters())
    model(torch.rand(3, 2, generator=generator)).sum().backward()
    adam.step()
    estimator.keywords["baseline"].update(float(seed))
    average = {"weight": torch.full((1,), float(seed))}
    return {"model": model, "optimizer": adam, "generator": generator, "average": average, "estimator": estimator}


def test_every_kind_of_part_comes_back_from_its_tensors():
    saved, fresh = to_tensors(parts(1)), parts(2)
    load_tensors(fresh, saved)
    again = to_tensors(fresh)
    assert saved.keys() == again.keys()
    assert {name.partition(".")[0] for name in saved} == fresh.keys()
    assert all(torch.equal(saved[name], again[name]) for name in saved)


def folder_with(path, *, checkpoint_at: int, steps: int) -> RunFolder:
    folder = RunFolder(path)
    folder.save_checkpoint("one", to_tensors(parts(1)), {"step": checkpoint_at})
    for step in range(1, steps + 1):
        for name in ("one", "other"):
            folder.append_metrics({"name": name, "step": step})
    return folder


def test_a_resumed_network_loses_the_metrics_after_its_checkpoint_and_no_others(tmp_path):
    folder, state = folder_with(tmp_path, checkpoint_at=2, steps=3), parts(2)
    assert resume(folder, "one", state, unit="step", owns=lambda record: record["name"] == "one") == 2
    assert torch.equal(state["average"]["weight"], torch.ones(1))
    steps = [(record["name"], record["step"]) for record in folder.read_metrics()]
    assert steps == [("one", 1), ("other", 1), ("one", 2), ("other", 2), ("other", 3)]


def test_a_checkpoint_that_cannot_be_used_or_is_not_there_counts_as_nothing_done(tmp_path):
    folder, state = folder_with(tmp_path, checkpoint_at=2, steps=3), parts(2)
    assert resume(folder, "one", state, unit="step", usable=lambda done, records: len(records) < done) == 0
    assert folder.read_metrics() == []
    assert resume(folder, "two", state, unit="step") == 0
    assert torch.equal(state["average"]["weight"], torch.full((1,), 2.0))
