"""What ptxas gives to every Triton kernel: registers, stack and shared memory, as a Markdown table. No GPU is needed.

    python scripts/registers.py                     # every rule at the widths of docs/performance.md, sm_80 and sm_90
    python scripts/registers.py --classes 50257 --steps 4 --dtypes bfloat16 --architectures 90

A call of `kernels.triton.launch` is followed as far as the kernel, which is then compiled instead of started. A stack
means that registers spill to memory. Instructions are those of the program's text: loops count once.
"""

import argparse
import inspect
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from catreparam.kernels.methods import METHODS
from catreparam.kernels.settings import Setting
from catreparam.kernels.triton import launch
from catreparam.noise_schedule import make_schedule

WIDTHS = [2, 9, 10, 32, 100, 2048, 4096, 16384, 32000, 65536, 131072]
METHOD_OF = {
    "DIRECT": "reinmax", "GUMBEL": "gumbel_softmax", "CHAIN": "reindge", "MATCHED": "redge_cov", "SWEEP": "exact_redge",
}  # fmt: skip
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int32: "i32", torch.int64: "i64"}


class Built(NamedTuple):
    """A kernel as the device would run it."""

    registers: int
    stack: int
    shared: int
    local: int
    instructions: int
    special: int  # of them, those of the special function unit
    warps: int


class Recorder:
    """Stands for a kernel: started with a call's arguments, it compiles for `architecture` what would run."""

    def __init__(self, kernel: Any, architecture: int) -> None:
        self.kernel, self.architecture = kernel, architecture

    def __getitem__(self, grid: Any) -> "Recorder":
        return self

    def __call__(self, *given: Any, num_warps: int, enable_fp_fusion: bool, **constants: Any) -> None:
        from triton import compile as build
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        names = list(inspect.signature(self.kernel.fn).parameters)
        assert len(given) + len(constants) == len(names)
        signature = dict(zip(names, map(_type_of, given), strict=False)) | dict.fromkeys(constants, "constexpr")
        fine = [i for i, it in enumerate(given) if isinstance(it, torch.Tensor) or (type(it) is int and it % 16 == 0)]
        source = ASTSource(self.kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in fine})
        options = {"num_warps": num_warps, "enable_fp_fusion": enable_fp_fusion}
        target = GPUTarget("cuda", self.architecture, 32)
        self.built = _report(build(source, target=target, options=options).asm["cubin"], num_warps)


def _type_of(given: Any) -> str:
    if isinstance(given, torch.Tensor):
        return "*" + TYPES[given.dtype]
    return "fp32" if isinstance(given, float) else "i64" if given > 2**31 else "i32"


def _report(cubin: bytes, warps: int) -> Built:
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")
        usage, text = (
            subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "-sass")
        )
    found = {name: int(re.search(rf"\b{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "SHARED", "LOCAL")}
    lines = re.findall(r"^\s+/\*[0-9a-f]{4,5}\*/\s+(.*?);", text, re.M)
    special = sum("MUFU" in line for line in lines)
    return Built(*found.values(), len(lines), special, warps)


def build(
    direction: str, rule: str, classes: int, architecture: int, steps: int = 4, hard: bool = True,
    dtype: torch.dtype = torch.float32, num_noises: int = 1,
) -> Built:  # fmt: skip
    """The kernel of a direction (forward | backward) for rows of so many classes."""
    lambdas = make_schedule("alpha", steps, 0.5).lambdas if rule in ("CHAIN", "MATCHED", "SWEEP") else (0.0,)
    weight = float(hard and rule != "GUMBEL")
    setting = Setting(METHODS[METHOD_OF[rule]], lambdas, "euler", hard, num_noises, 1.0 + weight / 4, weight)
    logits = torch.zeros(16, classes, dtype=dtype)
    name = f"_{direction}_kernel"
    choose, recorders = getattr(launch, name), []

    def record(streamed: bool) -> Recorder:
        recorders.append(Recorder(choose(streamed), architecture))
        return recorders[-1]

    setattr(launch, name, record)
    try:
        getattr(launch, direction)(setting, *[logits] * (1 if direction == "forward" else 2), 2**40)
    finally:
        setattr(launch, name, choose)
    return recorders[0].built


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--rules", nargs="+", default=list(METHOD_OF), choices=list(METHOD_OF))
    parser.add_argument("--architectures", type=int, nargs="+", default=[80, 90])
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--steps", type=int, default=4, help="num_steps of the chain")
    arguments = parser.parse_args()
    print("| classes | rule | pass | sm | dtype | warps | registers | stack | shared | instructions | special |")
    print("|--:|---|---|--:|---|--:|--:|--:|--:|--:|--:|")
    for classes in arguments.classes:
        for rule in arguments.rules:
            for direction in ("forward", "forward, relaxed", "backward"):
                if direction == "forward, relaxed" and rule == "DIRECT":
                    continue
                for architecture in arguments.architectures:
                    for dtype in arguments.dtypes:
                        hard = "relaxed" not in direction
                        kernel = direction.partition(",")[0]
                        it = build(kernel, rule, classes, architecture, arguments.steps, hard, getattr(torch, dtype))
                        sizes = it.warps, it.registers, it.stack + it.local, it.shared, it.instructions, it.special
                        print("|", " | ".join(map(str, (classes, rule, direction, architecture, dtype, *sizes))), "|")


if __name__ == "__main__":
    main()
