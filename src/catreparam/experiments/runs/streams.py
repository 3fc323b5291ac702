"""Randomness of experiments: one generator for one purpose of one seed."""

import hashlib

from torch import Generator


def stream(seed: int, purpose: str, device: str = "cpu") -> Generator:
    """A generator for one purpose of one seed; different purposes and seeds are unrelated."""
    digest = hashlib.sha256(f"{purpose} {seed}".encode()).digest()
    return Generator(device=device).manual_seed(int.from_bytes(digest[:7], "big"))
