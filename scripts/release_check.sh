#!/usr/bin/env bash
# Builds wheel and sdist, checks their metadata, installs each in a clean environment and takes a first gradient there.
set -euo pipefail
cd "$(dirname "$0")/.."
python="$(cd "${VENV:-.venv}/bin" && pwd)/python"  # VENV may be relative or absolute
constraints="$PWD/constraints.txt"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { tail -30 "$work/build.log"; exit 1; }
"$python" -m twine check --strict "$work"/dist/*

for file in "$work"/dist/*.whl "$work"/dist/*.tar.gz; do
  echo "installing $(basename "$file")"
  rm -rf "$work/env"
  "$python" -m venv "$work/env"
  "$work/env/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" torch
  "$work/env/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" "$file"
  (cd "$work" && "$work/env/bin/python" -W error::DeprecationWarning:catreparam - <<'PYTHON'
import importlib.metadata
from pathlib import Path

import torch

import catreparam

assert ".venv" not in catreparam.__file__ and "env" in catreparam.__file__, catreparam.__file__
assert importlib.metadata.version("catreparam") == catreparam.__version__
assert (Path(catreparam.__file__).parent / "py.typed").exists()
for name, function in catreparam.ESTIMATORS.items():
    logits = torch.zeros(8, 3, 4, requires_grad=True)
    loss = catreparam.expectation(
        lambda x: (x[..., 0].sum(-1) - 1) ** 2, logits, estimator=name, num_samples=4,
        generator=torch.Generator().manual_seed(0),
    )
    loss.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all(), name
print(f"catreparam {catreparam.__version__}: {len(catreparam.ESTIMATORS)} estimators take a gradient")
PYTHON
  )
done
echo "release-check: wheel and sdist are good"
