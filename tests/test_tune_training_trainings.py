"""`tune_training` and what a caller's training may do: to torch, to the race, and to itself."""

import math
from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import pytest
import torch

from catreparam import make_estimator, tune_training
from catreparam.gradients.torch_state import TorchState

NAMES = ["straight_through", "reinmax", "redge", "reindge", "rloo"]


def raced(train, names=NAMES, **given):
    return tune_training(train, estimators=names, search_space={}, **given)


def same(first, second):
    """Whether two states of torch are the same."""
    return all(
        torch.equal(value, getattr(second, name)) if isinstance(value, torch.Tensor) else value == getattr(second, name)
        for name, value in vars(first).items()
    )


LOSSES = [3, 2.5, Fraction(1, 2), np.float32(0.5), np.int64(2), np.array(1.0), np.ones((1, 1))]
LOSSES += [torch.tensor(2), torch.ones(1, 1, 1), torch.ones(1, requires_grad=True) * 2, torch.tensor(0.5).bfloat16()]
NO_LOSSES = [
    None,
    "0.5",
    "x",
    b"1",
    True,
    False,
    np.True_,
    np.array("1"),
    np.ones(3),
    1j,
    [1.0],
    (1.0, 2.0),
    {"a": 1.0},
]
NO_LOSSES += [torch.tensor(True), torch.tensor(1j), torch.ones(0), torch.ones(2), torch.ones((), device="meta")]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_numbers_of_all_kinds_are_losses(loss):
    values = raced(lambda estimator: iter([9.0, loss]), ["redge"], first=2).rows[0].values
    assert values == (9.0, float(loss.item() if hasattr(loss, "item") else loss))


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("loss", NO_LOSSES, ids=repr)
def test_anything_else_is_refused_wherever_it_stands(loss, before):
    def train(estimator):
        yield from [3.0] * before
        yield loss if estimator.name == "redge" else 2.0
        yield 0.1

    with pytest.raises(TypeError) as error:
        raced(train, ["reinmax", make_estimator("redge", t1=0.6)], first=3)
    assert "with redge:t1=0.6 it yielded" in str(error.value)
    assert "\n" not in str(error.value)
    if not isinstance(loss, torch.Tensor):
        assert repr(loss) in str(error.value)


CONTEXTS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "half": lambda: torch.autocast("cpu", dtype=torch.float16),
    "no cache": lambda: torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False),
    "off": lambda: torch.autocast("cpu", enabled=False),
    "cuda": lambda: torch.autocast("cuda", dtype=torch.bfloat16, enabled=False),
    "no_grad": torch.no_grad,
    "fork_rng": torch.random.fork_rng,
    "nothing": nullcontext,
}


@pytest.mark.parametrize("outside", CONTEXTS)
@pytest.mark.parametrize("inside", CONTEXTS)
def test_what_a_training_holds_open_reaches_nobody(inside, outside):
    """Each sees between its values what it left, at its start what the caller has, and the caller has it afterwards."""

    def train(estimator):
        began = TorchState.now()
        assert began.grad_enabled
        assert (began.autocast, began.cache, began.nesting) == (caller.autocast, caller.cache, caller.nesting)
        assert torch.equal(began.numbers, caller.numbers)
        with CONTEXTS[inside](), CONTEXTS[inside if estimator.name == "redge" else "nothing"]():
            torch.manual_seed(len(estimator.name))
            for step in range(20):
                torch.rand(3)
                left = TorchState.now()
                yield 1.0 + len(estimator.name) / (1 + step)
                assert same(left, TorchState.now())

    with CONTEXTS[outside]():
        caller = TorchState.now()
        raced(train, reduction=2)
        assert same(caller, TorchState.now())


def noisy(estimator, seed=None):
    """Makes its model, trains and yields with the global generator."""
    if seed is not None:
        torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(), torch.nn.Linear(4, 1))
    adam = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(9):
        loss = model(torch.randn(8, 4)[torch.randperm(8)]).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        yield loss


@pytest.mark.parametrize("seed", [None, 0, 5])
@pytest.mark.parametrize("count", range(1, 6))
def test_random_numbers_do_not_depend_on_how_many_run_beside(count, seed):
    torch.manual_seed(3)
    alone = [value.item() for value, _ in zip(noisy(None, seed), range(3), strict=False)]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for row in raced(lambda estimator: noisy(estimator, seed), [*NAMES[: count - 1], "relax"], first=3).rows:
        assert row.values[:3] == pytest.approx(alone, abs=0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("holders", range(5))
def test_weights_cast_by_autocast_are_never_stale(holders):
    """A region that another training holds open would keep what was cast in ours, from before a step."""

    def train(estimator):
        holds = NAMES.index(estimator.name) < holders
        with torch.autocast("cpu", dtype=torch.bfloat16) if holds else nullcontext():
            weight = torch.nn.Parameter(torch.eye(2))
            while True:
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    yielded = (torch.eye(2) @ weight).sum().item()
                weight.data += 1.0
                yield yielded

    rows = {row.estimator.name: row.values for row in raced(train, first=4).rows}
    assert [rows[name][:4] for name in NAMES[holders:]] == [(2.0, 6.0, 10.0, 14.0)] * (5 - holders)


@pytest.mark.parametrize("started", [True, False])
def test_the_numbers_of_cuda_are_kept_apart_too(started, monkeypatch):
    """CUDA's generators are stood in for; where a training starts CUDA, the others' begin at torch's seed."""
    torch.manual_seed(11)
    devices, running = [torch.Generator().manual_seed(11) for _ in range(2)], [started]
    monkeypatch.setattr(torch.cuda, "default_generators", tuple(devices))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: running[0])
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: [device.manual_seed(seed) for device in devices])

    def drawn(device):
        return float(torch.rand((), generator=device))

    def train(estimator):
        running[0] = True
        while True:
            yield drawn(devices[0]) + 2 * drawn(devices[1])

    reference = torch.Generator().manual_seed(11)
    wanted = [3 * drawn(reference) for _ in range(3)]
    for row in raced(train, first=3).rows:
        assert row.values[:3] == pytest.approx(wanted)
    assert [device.get_state().tolist() for device in devices] == [
        torch.Generator().manual_seed(11).get_state().tolist()
    ] * 2


ERRORS = [RuntimeError, KeyError, AssertionError, ValueError, TypeError, OSError, NotImplementedError, RecursionError]
ERRORS += [ModuleNotFoundError, AttributeError, IndexError, SyntaxError, UserWarning]


@pytest.mark.parametrize("when", ["call", 0, 1, 3, "close"])
@pytest.mark.parametrize("kind", ERRORS)
def test_an_exception_names_its_setting_and_is_the_cause(kind, when):
    closed = []

    def steps(estimator, broken):
        try:
            for step in range(20):
                if broken and step == when:
                    raise kind("boom")
                yield 1.0 + (estimator.name != "redge")
        finally:
            closed.append(estimator.name)
            if broken and when == "close":
                raise kind("boom")

    def train(estimator, learning_rate):
        broken = estimator.name == "redge" and learning_rate == 0.5
        if broken and when == "call":
            raise kind("boom")
        return steps(estimator, broken)

    with pytest.raises(ValueError, match=r"^train failed with redge:t1=0.6 at learning rate 0.5: ") as error:
        raced(train, ["reinmax", make_estimator("redge", t1=0.6)], learning_rates=[0.5, 1.0], first=2)
    assert f"{kind.__name__}: {kind('boom')}" in str(error.value)
    assert type(error.value.__cause__) is kind
    if when == "close":  # the others are closed all the same
        assert len(closed) == 4


def test_stop_iteration_does_not_pass_for_the_end():
    def train(estimator):
        yield 1.0
        raise StopIteration

    with pytest.raises(ValueError, match="train failed with redge: RuntimeError: generator raised StopIteration"):
        raced(train, ["redge", "rloo"], first=2)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: tried to allocate 8000000 bytes")])
def test_want_of_memory_is_told_as_everywhere(error):
    def train(estimator):
        raise error
        yield

    with pytest.raises(ValueError, match=r"train failed with redge: out of memory.*; lower a size"):
        raced(train, ["redge"])


@pytest.mark.parametrize("first", [1, 2, 3, 10])
@pytest.mark.parametrize("lengths", [(3, 3, 3), (1, 2, 3), (1, 1, 1), (5, 1, 2), (12, 12, 12)])
def test_the_text_says_after_how_many_values_they_were_compared(lengths, first):
    def train(estimator):
        return iter([1.0] * lengths[NAMES.index(estimator.name)])

    result = raced(train, NAMES[:3], first=first, reduction=2)
    finalists = [len(row.values) for row in result.rows[: result.finalists]]
    assert result.compared == max(finalists)
    assert f"compared after {result.compared} value" in str(result)
    assert ("those with fewer after their last" in str(result)) == (len(set(finalists)) > 1)


def test_what_diverged_as_time_ran_out_is_not_recommended(monkeypatch):
    clock = [0.0]

    def train(estimator):
        yield 1.0 + (estimator.name != "redge")
        clock[0] = 100.0 * (estimator.name == "redge")
        yield math.nan

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    result = raced(train, ["redge", "reinmax", "rloo"], reduction=2, max_seconds=50.0)
    assert result.out_of_time
    assert [row.estimator.name for row in result.rows] == ["reinmax", "redge", "rloo"]
