"""A guided generation on a 24 x 24 grid of 16,384 codes with a decoder stays far below 2 GB."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "guide_memory.py"


@pytest.mark.skipif(sys.platform == "win32", reason="the example measures by the resource module")
@pytest.mark.parametrize("estimator", ["redge", "exact_redge"])
def test_a_large_grid_takes_less_than_two_gigabytes(estimator):
    done = subprocess.run([sys.executable, EXAMPLE, estimator], capture_output=True, text=True, check=True)
    assert 36 < float(done.stdout) < 1_900  # 2 GB; about 550 with compiled kernels, 1,550 without
