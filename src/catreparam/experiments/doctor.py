"""What this installation can do here: which path runs on which device and why, processor, compiler, versions."""

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import catreparam
from catreparam import startup
from catreparam.estimators import ESTIMATORS
from catreparam.experiments.runs.machine import describe_machine
from catreparam.kernels import dispatch
from catreparam.kernels.compiled import library, node
from catreparam.kernels.methods import METHODS
from catreparam.kernels.settings import Setting
from catreparam.kernels.torch.adjoints import ADJOINTS
from catreparam.kernels.triton import launch as triton_launch

Finding = tuple[str, str]

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
PACKAGES = ("numpy", "tyro", "rich", "safetensors", "matplotlib", "scikit-learn", "mlxtend", "platformdirs", "filelock")
PEERS = ("redge", "reinmax")
VARIABLES = ("CATREPARAM_KERNELS", "CATREPARAM_VALIDATION", "CATREPARAM_DATA", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")


def diagnose() -> dict[str, list[Finding]]:
    """Headings and, under each, what was found as (name, text). Never raises for a bad setting: it says so."""
    return {
        "Paths": list(_paths()),
        "Machine": list(_machine()),
        "Compiled kernels": list(_kernels()),
        "Settings": [(name, os.environ.get(name, "not set")) for name in VARIABLES],
        "Packages": [(name, _version(name)) for name in ("catreparam", "torch", "jaxtyping", *PACKAGES, *PEERS)],
        "Folders": list(_folders()),
    }


def to_text(findings: dict[str, list[Finding]]) -> str:
    """Aligned lines under their headings."""
    width = max(len(name) for section in findings.values() for name, _ in section) + 2
    lines: list[str] = []
    for heading, section in findings.items():
        lines += [heading, *(f"  {name:<{width}}{text}".rstrip() for name, text in section), ""]
    return "\n".join(lines).rstrip()


def _paths() -> Iterator[Finding]:
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    for device in (device for device, here in present.items() if here):
        for dtype in DTYPES:
            yield f"{device} {str(dtype).removeprefix('torch.')}", _path("redge", device, dtype)
    for method in ESTIMATORS:
        if method in METHODS and METHODS[method].rule not in ADJOINTS:
            yield f"cpu float32, {method}", _path(method, "cpu", torch.float32)
    yield "all other estimators", "naive: plain torch operations"


def _path(method: str, device: str, dtype: torch.dtype) -> str:
    """The path of a call and why the faster ones do not take it."""
    setting, logits = Setting(METHODS[method]), torch.zeros(1, 3, dtype=dtype, device=device)
    reasons: list[str] = []
    try:
        for path in dispatch.PATHS:
            reason = dispatch.why_not(path, setting, logits)
            if not reason:
                return f"{path} ({'; '.join(reasons) or library.instruction_set()})"
            if (path != "triton" or device != "cpu") and not any(given.endswith(reason) for given in reasons):
                reasons.append(f"not {path}: {reason}")
    except (RuntimeError, ValueError, TypeError) as error:
        return f"ERROR: {str(error).splitlines()[0]}"
    return f"naive ({'; '.join(reasons)})"


def _machine() -> Iterator[Finding]:
    yield "processor", describe_machine()
    yield "torch's instructions", torch.backends.cpu.get_cpu_capability().lower()
    yield "threads", f"{torch.get_num_threads()} within an operation, {torch.get_num_interop_threads()} between"
    yield "threads chosen by us", _chosen()
    if torch.cuda.is_available():
        yield "cuda", f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})"
    else:
        yield "cuda", f"no device (torch is built for CUDA {torch.version.cuda})" if torch.version.cuda else "none"


def _chosen() -> str:
    """What `startup` has decided, and from what."""
    quota, names = startup.quota(), os.environ.get(startup.CHOSEN, "").split()
    said = ", ".join(f"{name}={os.environ.get(name)}" for name in names) or "nothing, you have set it"
    return f"{said} ({startup.processors()} processors, quota {quota or 'none'})"


def _kernels() -> Iterator[Finding]:
    if library.BUILT:
        yield "built", f"yes, version {library.VERSION}"
        yield "instructions", library.instruction_set()
        yield "autograd node", node.UNAVAILABLE or node.FILE.name
    else:
        yield "built", "no: the torch path is used; with a C++ compiler, install again from source"
    yield "triton", triton_launch.UNAVAILABLE or f"{_version('triton')}, for tensors on cuda"
    yield "compiler here", " ".join(node.find_compiler()) or "none found; set CXX, or install g++ or clang++"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _folders() -> Iterator[Finding]:
    yield "package", str(Path(catreparam.__file__).parent)
    try:
        from catreparam.data.fetch import cache_folder

        folder = cache_folder()
        yield "data", f"{folder}{'' if folder.is_dir() else ' (not made yet)'}"
    except ModuleNotFoundError as error:
        yield "data", f"unknown: needs the package {error.name}, or CATREPARAM_DATA"
