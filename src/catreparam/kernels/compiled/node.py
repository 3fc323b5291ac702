"""The autograd node of the compiled kernels in C++: built on request for the torch that is installed, then loaded.

torch's C++ interface changes with every release, so that no wheel can bring the node: `catreparam build` compiles it on
the machine, for this torch and this Python. Without it `compiled` does the same in Python; small calls then take 1.2 to
1.7 times as long.
"""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import ModuleType

import torch

from catreparam.kernels.compiled.library import VERSION

COMPILERS = ("c++", "g++", "clang++")
SOURCE = Path(__file__).with_name("node.cpp")
BEHAVIOUR = 1  # of node.cpp: raised when it takes other calls, so that no older build takes them wrongly
# By the version of the interface too: one that an older release built would not fit.
FILE = SOURCE.with_name(f"_node{VERSION}.{BEHAVIOUR}-torch{torch.__version__}-{sys.implementation.cache_tag}.so")
HOW = "run `catreparam build` (half a minute, needs a C++ compiler)"


def find_compiler() -> list[str]:
    """The words of a C++ compiler's command, from the environment's CXX or the usual names; none if there is none."""
    for candidate in [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS:
        words = shlex.split(candidate)
        if words and shutil.which(words[0]):
            return words
    return []


def build() -> Path:
    """Compiles the node for processes started later; returns the file. Raises OSError saying what stood in the way."""
    compiler = find_compiler()
    if not compiler:
        raise OSError("no C++ compiler found; set CXX, or install g++ or clang++")
    at = Path(torch.__file__).parent
    including = [at / "include", at / "include/torch/csrc/api/include", Path(sysconfig.get_paths()["include"])]
    # Moved at the end: a process that has the old one open keeps it whole.
    building = FILE.with_suffix(f".{os.getpid()}")
    command = [*compiler, "-shared", "-O2", "-fPIC", "-fvisibility=hidden", "-w"]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    command += [word for folder in including for word in ("-isystem", str(folder))]
    command += [str(SOURCE), "-o", str(building), f"-L{at / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch_python"]
    try:
        errors = ""
        for standard in (
            "-std=c++20",
            "-std=c++17",
        ):  # newer torches want the first, older compilers know only the second
            done = subprocess.run([*command, standard], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                building.replace(FILE)
                return FILE
            errors = errors or done.stderr
        first = next((line for line in errors.splitlines() if "error" in line), errors[:200])
        raise OSError(f"{compiler[0]} could not compile the autograd node against torch {torch.__version__}: {first}")
    finally:
        building.unlink(missing_ok=True)


def _load() -> tuple[ModuleType | None, str]:
    """The module, or None and why."""
    if not FILE.is_file():
        return None, f"not built for torch {torch.__version__}; {HOW}"
    try:
        loader = ExtensionFileLoader("_node", str(FILE))
        module = importlib.util.module_from_spec(ModuleSpec("_node", loader, origin=str(FILE)))
        loader.exec_module(module)
    except ImportError as error:
        return None, f"{FILE.name} cannot be loaded ({str(error).splitlines()[0]}); {HOW}"
    return module, ""


MODULE, UNAVAILABLE = _load()  # at import, so that traced code sees a constant
