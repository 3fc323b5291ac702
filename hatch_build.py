"""Builds the compiled kernels into the wheel if there is a C++ compiler, and a pure wheel otherwise."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("src/catreparam/kernels/compiled")
LIBRARY = KERNELS / "_compiled.so"
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wno-psabi"]
# Fused multiply-adds and no errno: neither changes what the processor does for anyone else. Never -ffast-math, which
# breaks NaN and -inf and, when linked, flushes denormals in the whole process.
# The loops are vectors already; what the compiler would make of the few scalar ones is slower.
MATHS = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-tree-vectorize"]
INSTRUCTION_SETS = {
    "generic": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mavx2", "-mfma", "-mf16c"],
}


class KernelBuildHook(BuildHookInterface):
    """Compiles before the wheel is packed; an editable install finds the library in the source tree."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the library and the platform's tag to the wheel, or says in one line why not."""
        reason = build(Path(self.root))
        if reason:
            print(
                f"catreparam: no compiled kernels ({reason}); the slower pure-torch path will be used", file=sys.stderr
            )
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"].append(str(LIBRARY))


def build(root: Path) -> str:
    """Compiles the kernels below `root`; returns why it could not, or nothing."""
    compiler = find_compiler()
    if not compiler:
        return "no C++ compiler found; set CXX"
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    sources = root / KERNELS / "csrc"
    with tempfile.TemporaryDirectory() as folder:
        objects = [Path(folder) / "library.o"]
        commands = [[*FLAGS, *(["-DCATREPARAM_X86"] if x86 else []), "-c", str(sources / "library.cpp")]]
        for name, flags in INSTRUCTION_SETS.items():
            if x86 or name == "generic":
                objects.append(Path(folder) / f"{name}.o")
                source = str(sources / "kernels.cpp")
                commands.append([*FLAGS, *MATHS, *flags, f"-DCATREPARAM_KERNELS={name}", "-c", source])
        running = [
            subprocess.Popen([*compiler, *command, "-o", str(to)], stderr=subprocess.PIPE, text=True)
            for command, to in zip(commands, objects, strict=True)
        ]
        errors = [process.communicate()[1] for process in running]
        if any(process.returncode for process in running):
            return f"{compiler[0]} failed: {_first_error(errors)}"
        # Linked under another name and moved: a process that has the old library open keeps it whole.
        linked = root / KERNELS / "_building.so"
        link = [*compiler, "-shared", "-pthread", "-o", str(linked), *map(str, objects)]
        done = subprocess.run(link, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            return f"{compiler[0]} failed to link: {_first_error([done.stderr])}"
        linked.replace(root / LIBRARY)
    return ""


def find_compiler() -> list[str]:
    """$CXX if set, else the first of c++, g++, clang++ that exists, as a command; empty if there is none."""
    if sys.platform == "win32":
        return []
    if os.environ.get("CXX"):
        command = shlex.split(os.environ["CXX"])
        return command if shutil.which(command[0]) else []
    return next(([name] for name in ("c++", "g++", "clang++") if shutil.which(name)), [])


def _first_error(outputs: list[str]) -> str:
    lines = [line for output in outputs for line in (output or "").splitlines() if "error" in line.lower()]
    return lines[0].strip() if lines else "unknown error"
