"""The Triton path without a GPU: its table of softmaxes, its wiring, its kernels interpreted and built for a GPU."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from catreparam.kernels import dispatch
from catreparam.kernels import plan as triton_plan
from catreparam.kernels.compiled import autograd as compiled
from catreparam.kernels.compiled.library import METHODS
from catreparam.kernels.naive.chain import denoise, solve
from catreparam.kernels.settings import Setting
from catreparam.kernels.triton import launch as triton_launch
from catreparam.noise_schedule import NoiseSchedule, make_schedule

HERE = Path(__file__).parent
LAMBDAS = [make_schedule("alpha", steps, 0.5).lambdas for steps in (1, 2, 5)] + [(0.1, 0.5, 0.5, 1.2)]
needs_triton = pytest.mark.skipif(bool(triton_launch.UNAVAILABLE), reason=triton_launch.UNAVAILABLE or "it is there")


@pytest.mark.parametrize("solver", ["euler", "ab2", "heun"])
@pytest.mark.parametrize("lambdas", LAMBDAS, ids=len)
def test_the_table_of_softmaxes_is_the_solver_and_its_adjoint(solver, lambdas):
    generator = torch.Generator().manual_seed(0)
    logits, noise, upstream = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    logits.requires_grad_()
    schedule = NoiseSchedule(lambdas)
    z = solve(lambda z, lam: denoise(z, logits, lam), noise, schedule, solver)
    wanted = denoise(z, logits, schedule.last)
    chain = triton_plan.evaluations(lambdas, solver)
    probs = []
    z, one, two = noise, torch.zeros_like(noise), torch.zeros_like(noise)
    for at in chain:
        z = z + at.to_z1 * one + at.to_z2 * two
        one, two = torch.softmax(logits.detach() + at.lam * (z + at.peek * one), -1), one
        probs.append(one)

    def covariance(p, u):
        return p * (u - (p * u).sum(-1, keepdim=True))

    gradient = covariance(probs[-1], upstream)
    adjoint, kept = schedule.last * gradient, 0.0
    for at, p in zip(chain[-2::-1], probs[-2::-1], strict=True):
        v = covariance(p, at.from_z * adjoint + at.from_kept * kept)
        gradient = gradient + v
        adjoint, kept = adjoint + at.lam * v, at.keep_z * adjoint + at.keep_step * at.lam * v
    assert len(chain) == triton_plan.num_evaluations(lambdas, solver)
    torch.testing.assert_close(probs[-1], wanted.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, logits, upstream)[0])


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
def test_cuda_tensors_take_the_triton_path_unless_told_otherwise(wanted, dtype, path, monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", wanted)
    with FakeTensorMode():
        assert dispatch.choose_path(cuda_logits(dtype), "redge") == path


def test_without_triton_cuda_tensors_take_the_torch_path(monkeypatch):
    monkeypatch.setattr(triton_launch, "UNAVAILABLE", "the package triton is not installed")
    monkeypatch.setattr(dispatch, "_wanted", "")
    with FakeTensorMode():
        assert dispatch.choose_path(cuda_logits(), "redge") == "torch"
        monkeypatch.setattr(dispatch, "_wanted", "triton")
        with pytest.raises(RuntimeError, match="CATREPARAM_KERNELS=triton, but the package triton is not installed"):
            dispatch.choose_path(cuda_logits(), "redge")


def test_triton_asked_for_on_the_cpu_is_the_torch_path(monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", "triton")
    assert dispatch.choose_path(torch.zeros(3, 4), "redge") == "torch"
    assert dispatch.why_not_triton(torch.zeros(3, 4)) == "logits are on cpu, not on cuda"


@needs_triton
def test_traced_cuda_tensors_meet_the_custom_op_and_its_gradient(monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", "")
    calls = []

    def op(rows, seed, *setting):
        calls.append((seed.device.type, setting))
        return compiled.backward_op(rows, rows, seed, *setting)

    with FakeTensorMode():
        logits = cuda_logits(torch.bfloat16)
        x = dispatch.sample(logits, None, -1, None, Setting("redge", LAMBDAS[1]))
        monkeypatch.setattr(compiled, "sample_op", op)
        gradient = dispatch.sample(logits, None, -1, None, Setting("redge", LAMBDAS[1]))
    assert calls == [("cuda", compiled._flat(dispatch.Setting("redge", LAMBDAS[1])))]
    for result in (x, gradient):
        assert result is not None
        assert (result.shape, result.dtype, result.device.type) == (logits.shape, logits.dtype, "cuda")


def test_calls_that_are_too_large_say_why():
    setting = dispatch.Setting("redge", make_schedule("alpha", 33, 0.5).lambdas)
    assert triton_launch.why_too_large(setting, 16384) == ""
    assert "16385 classes" in triton_launch.why_too_large(setting, 16385)
    assert "65 softmaxes" in triton_launch.why_too_large(setting._replace(solver="heun"), 4)


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: gpu/test_triton.py runs on it")
def test_kernels_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CATREPARAM_KERNELS": ""}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(HERE / "gpu" / "test_triton.py")]
    done = subprocess.run(
        command, cwd=HERE.parent, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


TYPES = {"seed_ptr": "*i64", "flag_ptr": "*i32", "temperature": "fp32", "weight": "fp32"}
TYPES |= {f"{name}_ptr": "*fp32" for name in ("plan", "noise", "x")}


@needs_triton
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted here")
@pytest.mark.parametrize("method", METHODS)
def test_kernels_build_for_a_gpu_that_is_not_there(method, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    for name in ("forward", "backward"):
        kernel = getattr(triton_launch._kernels(name), f"{name}_kernel")
        constants = {
            "METHOD": method, "EVALUATIONS": 3, "INTERVALS": 2, "FROM_ZERO": True, "NOISES": 2, "SECOND": True,
            "CHAIN": method in triton_launch.CHAINS, "NEEDS_X": True, "HARD": True,
            "GIVEN_NOISE": False, "GIVEN_X": False, "ROWS": 8, "CLASSES": 4,
        }  # fmt: skip
        constants = {key: value for key, value in constants.items() if key in inspect.signature(kernel.fn).parameters}
        others = {"logits_ptr": "*bf16", "upstream_ptr": "*bf16", "out_ptr": "*bf16"}
        signature = {
            key: "constexpr" if key in constants else {**TYPES, **others}.get(key, "i32")
            for key in inspect.signature(kernel.fn).parameters
        }
        built = triton.compile(
            ASTSource(kernel, signature, constants),
            target=GPUTarget("cuda", 80, 32),
            options={"enable_fp_fusion": True},
        )
        assert len(built.asm["cubin"]) > 0
