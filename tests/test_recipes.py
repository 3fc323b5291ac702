"""The recipes of docs/guides/extending.md, followed word for word in a copy of the repository, do what they say."""

import re

import pytest

from recipes_bed import commands, copied, follow, run

NAME = "tempered_straight_through"
RECIPES = ("An estimator in the package", "A fast path for it", "A study", "A denoiser")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the repository with every recipe followed."""
    root = copied(tmp_path_factory.mktemp("house"))
    for title in RECIPES:
        follow(title, root)
    return root


def output_of(root, command):
    done = run(root, command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


WHERE_IT_APPEARS = f"""
import catreparam
from catreparam.cli import main
from catreparam.experiments.sweep.spaces import space_of
from catreparam.gradients.tune import SEARCH_SPACE, candidates, expand

names = [name for name in ("{NAME}", "{NAME}_surrogate") if name in catreparam.__all__ and hasattr(catreparam, name)]
print("exported", names)
main(["list"])
main(["measure", "--estimators", "{NAME}", "--objectives", "quadratic", "--num-draws", "200"])
print("tuned", "{NAME}" in candidates())
print("tuned", expand("{NAME}", SEARCH_SPACE))
print("searched", sorted(space_of("{NAME}", (1e-3, 1e-2), 5e-3)))
"""


@pytest.fixture(scope="module")
def appearances(house):
    (house / "docs" / "where.py").write_text(WHERE_IT_APPEARS)  # out of the size gate's sight
    return output_of(house, "python docs/where.py")


def test_the_estimator_appears_by_itself_wherever_estimators_are_listed(appearances):
    assert f"exported ['{NAME}', '{NAME}_surrogate']" in appearances
    assert f"  {NAME}  temperature=1.0\n      Draws a one-hot x; its gradient is that of" in appearances
    assert f"| {NAME} " in appearances  # measured
    assert "tuned True" in appearances
    assert appearances.count(f"make_estimator('{NAME}', temperature=") == 3
    assert "searched ['lr', 'temperature']" in appearances


def test_the_contract_tests_run_over_the_estimator_and_pass(house):
    said = output_of(house, f"python -m pytest -v tests/test_contract.py -k {NAME} -p no:cacheprovider")
    assert int(re.search(r"(\d+) passed", said)[1]) > 30


FAST = f"""
import torch
import catreparam
from catreparam.estimators.tempered import tempered_setting
from catreparam.experiments.bench.samplers import find_samplers, parity_error
from catreparam.kernels import dispatch

logits, setting = torch.zeros(3, 4), tempered_setting(2.0)
print("path", dispatch.choose_path(setting, logits))
print("compiled:", dispatch.why_not("compiled", setting, logits))
found = [sampler for sampler in find_samplers()[0] if sampler.name == "{NAME}"]
print("benched", sorted(sampler.path for sampler in found))
print("parity", max(map(parity_error, found)) < 1e-4)
generator = torch.Generator().manual_seed(0)
for path in ("", "naive"):
    with dispatch.using(path):
        many = torch.zeros(20_000, 3).requires_grad_()
        x = catreparam.{NAME}(many, temperature=2.0, generator=generator)
        (x[:, 0]).sum().backward()
        print("gradient", [round(value, 4) for value in many.grad[0].tolist()])
"""


def test_the_fast_path_is_taken_timed_and_agrees_with_the_naive_one(house):
    (house / "docs" / "fast.py").write_text(FAST)  # out of the size gate's sight
    said = output_of(house, "python docs/fast.py")
    assert "path torch" in said
    assert f"compiled: {NAME} has no compiled kernel" in said
    assert "benched ['naive', 'torch']" in said
    assert "parity True" in said
    assert said.count("gradient [0.1111, -0.0556, -0.0556]") == 2


SITE = f"""
import runpy
from pathlib import Path

hook = runpy.run_path("scripts/site/estimators.py")
config = {{"docs_dir": "docs", "nav": [{{"Estimators": ["estimators.md"]}}]}}
try:
    hook["on_config"](config)
except Exception as error:
    print(error)
page = Path("docs/estimators/redge.md").read_text(encoding="utf-8")
Path("docs/estimators/{NAME}.md").write_text(page.replace("redge", "{NAME}"), encoding="utf-8")
Path("docs/assets/estimators/{NAME}.svg").write_text("<svg/>")
print(hook["on_config"](config)["nav"])
print(hook["on_page_markdown"]("<!-- estimators: table -->"))
print(hook["signatures"](takes_objective=False))
"""


def test_the_site_asks_for_the_estimators_page_and_then_lists_it(house):
    (house / "docs" / "site.py").write_text(SITE)  # out of the size gate's sight
    said = output_of(house, "python docs/site.py")
    assert f"docs/estimators/{NAME}.md is missing. Write it, with a title that starts with `{NAME}`" in said
    assert f"'estimators/{NAME}.md'" in said
    assert f"[`{NAME}`](estimators/{NAME}.md) | through the reverse diffusion | falls" in said
    assert f"::: catreparam.estimators.tempered.{NAME}_surrogate" in said


def test_the_study_runs_resumes_and_reports_from_the_command_line(house):
    (shell,) = commands("A study")
    said = output_of(house, shell)
    tables = said.count("| rloo")
    assert tables == 2
    assert (house / "runs" / "cosine-quick" / "metrics.jsonl").read_text().count("\n") == 2 * 3
    assert "cosine" in output_of(house, "catreparam list")
    assert "--objective" in output_of(house, "catreparam run cosine --help")


def test_the_study_keeps_the_import_contracts(house):
    assert "0 broken" in output_of(house, "lint-imports")


def test_the_denoiser_samples_and_is_public(house):
    (shell,) = commands("A denoiser")
    said = output_of(house, shell)
    assert said.startswith("tensor([[")
    assert "3" not in said  # no mask token is left
    assert "catreparam.masked_diffusion.NeighbourCounts" in output_of(house, "python scripts/public_api.py")


def test_what_the_recipes_add_passes_its_doctests_and_the_linters(house):
    added = "src/catreparam/masked_diffusion/neighbours.py src/catreparam/experiments/cosine/study.py "
    added += "src/catreparam/estimators/tempered.py"
    output_of(house, f"python -m pytest -q {added}")
    output_of(house, f"ruff check src && ruff format --check src && pyright {added} src/catreparam/kernels/torch")
    output_of(house, "python scripts/size_gate.py")
