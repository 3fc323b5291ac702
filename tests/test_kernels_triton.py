"""The Triton path without a GPU: its wiring, its kernels interpreted and built for a GPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from catreparam import pending
from catreparam.kernels import dispatch, ops
from catreparam.kernels.triton import autograd as triton_autograd
from catreparam.kernels.triton import launch as triton_launch
from catreparam.noise_schedule import make_schedule
from devices import as_device
from methods import setting_for

HERE = Path(__file__).parent
LAMBDAS = [make_schedule("alpha", steps, 0.5).lambdas for steps in (1, 2, 5)] + [(0.1, 0.5, 0.5, 1.2)]
needs_triton = pytest.mark.skipif(bool(triton_launch.UNAVAILABLE), reason=triton_launch.UNAVAILABLE or "it is there")


@pytest.fixture
def _with_values(monkeypatch):
    """Fake tensors are taken for those of a GPU, which is not here."""
    monkeypatch.setattr("catreparam.kernels.tracing.is_stand_in", lambda tensor: False)


def cuda_logits(dtype=torch.float32):
    return torch.empty(3, 4, device="cuda", dtype=dtype)


@needs_triton
@pytest.mark.parametrize(
    ("wanted", "dtype", "path"),
    [
        ("", torch.float32, "triton"),
        ("compiled", torch.bfloat16, "triton"),
        ("triton", torch.float16, "triton"),
        ("triton", torch.float64, "torch"),
        ("torch", torch.float32, "torch"),
        ("naive", torch.float32, "naive"),
    ],
)
@pytest.mark.usefixtures("_with_values")
def test_cuda_tensors_take_the_triton_path_unless_told_otherwise(wanted, dtype, path, monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", wanted)
    with FakeTensorMode():
        assert dispatch.choose_path(setting_for("redge"), cuda_logits(dtype)) == path


@pytest.mark.usefixtures("_with_values")
def test_without_triton_cuda_tensors_take_the_torch_path(monkeypatch):
    monkeypatch.setattr(triton_launch, "UNAVAILABLE", "the package triton is not installed")
    monkeypatch.setattr(dispatch, "_wanted", "")
    with FakeTensorMode():
        assert dispatch.choose_path(setting_for("redge"), cuda_logits()) == "torch"
        monkeypatch.setattr(dispatch, "_wanted", "triton")
        with pytest.raises(RuntimeError, match="CATREPARAM_KERNELS=triton, but the package triton is not installed"):
            dispatch.choose_path(setting_for("redge"), cuda_logits())


def test_triton_asked_for_on_the_cpu_is_the_torch_path(monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", "triton")
    assert dispatch.choose_path(setting_for("redge"), torch.zeros(3, 4)) == "torch"
    assert dispatch.why_not("triton", setting_for("redge"), torch.zeros(3, 4)) == "logits are on cpu, not on cuda"


@needs_triton
@pytest.mark.usefixtures("_with_values")
def test_traced_cuda_tensors_meet_the_custom_op_and_its_gradient(monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", "")
    calls = []

    def op(rows, seed, *setting):
        calls.append((seed.device.type, setting))
        return ops.backward_op(rows, rows, seed, *setting)

    with FakeTensorMode():
        logits = cuda_logits(torch.bfloat16)
        x = dispatch.sample(logits, None, -1, None, setting_for("redge", LAMBDAS[1]))
        monkeypatch.setattr(ops, "sample_op", op)
        gradient = dispatch.sample(logits, None, -1, None, setting_for("redge", LAMBDAS[1]))
    assert calls == [("cuda", setting_for("redge", LAMBDAS[1]).flat())]
    for result in (x, gradient):
        assert result is not None
        assert (result.shape, result.dtype, result.device.type) == (logits.shape, logits.dtype, "cuda")


@needs_triton
def test_calls_that_are_too_large_say_why():
    setting = setting_for("redge", make_schedule("alpha", 33, 0.5).lambdas)
    few = setting_for("redge", make_schedule("alpha", 7, 0.5).lambdas)
    with FakeTensorMode():
        assert triton_launch.why_not(setting, cuda_logits(), 16384) == ""
        assert triton_launch.why_not(few, cuda_logits(), 1_000_000) == ""
        assert "33 softmaxes are more than the 7" in triton_launch.why_not(setting, cuda_logits(), 16385)
        assert "65 softmaxes" in triton_launch.why_not(setting._replace(solver="heun"), cuda_logits(), 4)


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: gpu/test_triton.py runs on it")
def test_kernels_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CATREPARAM_KERNELS": ""}
    files = sorted(map(str, (HERE / "gpu").glob("test_triton*.py")))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *files]
    done = subprocess.run(
        command, cwd=HERE.parent, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


class Operations(TorchDispatchMode):
    """The names of torch's operations inside, in order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class Launches(list):
    """Stands for a kernel; what it was started with."""

    def __getitem__(self, grid):
        return lambda *arguments, **options: self.append((grid, arguments))


def test_a_call_starts_its_kernel_and_nothing_else(monkeypatch):
    started = Launches()
    monkeypatch.setattr(triton_launch, "_forward_kernel", lambda streamed: started)
    monkeypatch.setattr(triton_launch, "_backward_kernel", lambda streamed: started)
    setting, rows, passes = setting_for("redge", LAMBDAS[1]), torch.zeros(6, 5), triton_autograd.PASSES
    with as_device():
        passes.forward(setting, rows, 2**62)  # makes what stays: the plan's numbers, the faults
        faults = pending.faults_of(rows.device)
        faults.due = float("inf")
        faults.layer.work()
        started.clear()
        with Operations() as seen:
            passes.forward(setting, rows, 2**62)
            passes.backward(setting, rows, rows, 2**62)
        assert [arguments[6] is faults.places for _, arguments in started] == [True, False]
    assert seen.names == ["empty_like", "empty_like"]  # memory, which takes no kernel


@pytest.fixture(scope="module")
def registers():
    path = HERE.parent / "scripts" / "registers.py"
    spec = importlib.util.spec_from_file_location("registers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The kernels of rows that are held, at the widest, and of rows in pieces. `scripts/registers.py` prints all the others.
@needs_triton
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted here")
@pytest.mark.parametrize(("classes", "architecture", "steps"), [(2048, 80, 4), (4096, 90, 5), (131072, 90, 3)])
@pytest.mark.parametrize("rule", [rule.name for rule in triton_launch.RULES])
def test_no_kernel_spills_registers(registers, rule, classes, architecture, steps, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    if (rule, classes) == ("MATCHED", 4096):
        return  # it goes in pieces there, as at 131,072
    for direction in ("forward", "backward"):
        built = registers.build(direction, rule, classes, architecture, steps)
        assert (built.stack, built.local) == (0, 0), (direction, built)
        assert built.instructions > 100


@needs_triton
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted here")
def test_a_row_too_wide_for_the_registers_is_seen_to_spill(registers, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton_launch, "_is_streamed", lambda setting, classes: False)
    assert registers.build("backward", "MATCHED", 16384, 90).stack > 0
