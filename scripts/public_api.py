"""Prints every public name with its signature, one a line: what tests/public_api.txt freezes.

python scripts/public_api.py > tests/public_api.txt
"""

import importlib
import inspect

MODULES = (
    "catreparam",
    "catreparam.distributions",
    "catreparam.guidance",
    "catreparam.jax",
    "catreparam.masked_diffusion",
    "catreparam.nn",
    "catreparam.nn.hugging_face",
    "catreparam.schedules",
)


def main() -> None:
    print("\n".join(public_names()))


def public_names(modules: tuple[str, ...] = MODULES) -> list[str]:
    """`module.name(parameters)` for functions and classes, `module.name` for the rest, sorted."""
    lines = []
    for name in modules:
        module = importlib.import_module(name)
        lines += [f"{name}.{key}{_signature(getattr(module, key))}" for key in sorted(module.__all__)]
    return lines


def _signature(value: object) -> str:
    if not callable(value) or not (inspect.isfunction(value) or inspect.isclass(value)):
        return ""
    try:
        signature = inspect.signature(value)
    except ValueError:  # a class without an __init__ of its own in Python, such as a partial
        return ""
    parameters = []
    for parameter in signature.parameters.values():
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        mark = "key " if parameter.kind is parameter.KEYWORD_ONLY else ""
        default = "" if parameter.default is parameter.empty else "=" + _short(parameter.default)
        parameters.append(f"{mark}{star}{parameter.name}{default}")
    return f"({', '.join(parameters)})"


def _short(default: object) -> str:
    return repr(default) if isinstance(default, (int, float, str, bool, tuple, type(None))) else "..."


if __name__ == "__main__":
    main()
