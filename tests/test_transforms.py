"""The cheap columns of docs/transforms.md for every estimator, the dear ones for a sample; all: make transforms-table.

compile, export, vmap, func.grad and checkpointing one by one: test_compile.py and test_contract.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from catreparam import ESTIMATORS
from catreparam.schedules import LinearSchedule

SCRIPTS = Path(__file__).parent.parent / "scripts" / "transforms"
sys.path.insert(0, str(SCRIPTS))  # children started by spawn need it too

import checks  # noqa: E402
import processes  # noqa: E402
import table  # noqa: E402
from recorders import RECORDERS  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::Warning")  # torch's own, while it compiles and shards
SOME = ["redge", "rloo", "relax"]


@pytest.mark.parametrize("column", ["vmap", "func.grad", "checkpoint", "autocast", "pickle", "deepcopy", *RECORDERS])
def test_cheap_transforms_work_or_fail_as_explained(column):
    assert table.surprises_in(column, table.check_column(column)) == []


@pytest.mark.parametrize(("column", "names"), [("compile", ["redge", "relax"]), ("ONNX", ["straight_through", "rloo"])])
def test_dear_transforms_work_on_a_sample(column, names):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert table.surprises_in(column, table.check_column(column, names), names) == []


@pytest.mark.parametrize("name", ["rloo", "gumbel_rao", "transport_redge"])
def test_one_graph_serves_all_batch_sizes(name):
    checks.compile_dynamic(name)


def test_spawned_processes_with_ddp_and_fsdp_work_on_a_sample():
    assert processes.in_two_processes([processes.ddp, processes.fsdp], SOME) == {}


def test_forked_processes_work_on_a_sample():
    # In a process of its own: this one may hold threads of other libraries, which no child survives.
    code = f"import table; print(table.check_column('fork', {SOME!r}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPTS), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "{}", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "key"),
    [("redge", "t1"), ("exact_redge", "t1"), ("gumbel_softmax", "temperature"), ("lambda_reinmax", "weight")],
)
def test_a_hyperparameter_that_changes_compiles_again_without_a_graph_break(name, key):
    torch._dynamo.reset()
    schedule, weights = LinearSchedule(0.9, 0.3, num_steps=3), torch.arange(4.0)

    @torch.compile(fullgraph=True, backend="eager")
    def loss(logits, value):
        return (ESTIMATORS[name](logits, **{key: value}) * weights).sum()

    for _ in range(3):
        logits = torch.randn(5, 4, requires_grad=True)
        loss(logits, schedule.value).backward()
        schedule.step()
        assert bool(logits.grad.isfinite().all())
    torch._dynamo.reset()


def test_failures_surprise_and_so_do_exceptions_that_work():
    assert table.surprises_in("vmap", {"redge": "boom"}, ["redge"]) == ["redge, vmap: boom"]
    assert table.surprises_in("vmap", {}, ["relax"]) != []
    assert table.surprises_in("vmap", {"relax": "another reason"}, ["relax"]) != []


def test_a_failing_check_is_reported(monkeypatch):
    def fails(name):
        raise RuntimeError("broken")

    monkeypatch.setitem(checks.CHECKS, "vmap", fails)
    assert table.check_column("vmap", ["redge"]) == {"redge": "RuntimeError: broken"}


def test_the_committed_page_has_a_row_for_every_estimator_and_an_answer_for_every_transform():
    page = table.PAGE.read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(ESTIMATORS)
    for row in rows:
        answers = [cell.strip() for cell in row.split("|")[2:-1]]
        assert len(answers) == len(table.COLUMNS)
        assert all(answer == "yes" or answer.startswith("no [") for answer in answers)
