"""Nothing becomes public, or stops being so, by accident: names and signatures are those of public_api.txt."""

import runpy
from pathlib import Path

import pytest

FROZEN = Path(__file__).parent / "public_api.txt"
SCRIPT = Path(__file__).parent.parent / "scripts" / "public_api.py"


def test_public_names_and_signatures_are_the_frozen_ones():
    pytest.importorskip("jax", reason="pip install 'catreparam[jax]'")
    found = runpy.run_path(str(SCRIPT))["public_names"]()
    frozen = FROZEN.read_text(encoding="utf-8").splitlines()
    gone, new = sorted(set(frozen) - set(found)), sorted(set(found) - set(frozen))
    assert not gone, f"gone or changed: {gone}; see docs/versioning.md, then python scripts/public_api.py > {FROZEN}"
    assert not new, f"new: {new}; if meant: changelog, docs, then python scripts/public_api.py > {FROZEN}"
