"""What to type for the optional parts of the package: the one place that knows how it is installed."""


def install(extra: str) -> str:
    """The command that adds an extra of pyproject.toml. There is no release on PyPI yet: from a checkout.

    >>> install("jax")
    "run pip install '.[jax]' in your checkout of catreparam"
    """
    return f"run pip install '.[{extra}]' in your checkout of catreparam"
