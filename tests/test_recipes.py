"""The recipes of docs/guides/extending.md, followed word for word in a copy of the repository, do what they say."""

import pytest

from recipes_bed import commands, copied, follow, run


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the repository with every recipe followed."""
    root = copied(tmp_path_factory.mktemp("house"))
    for title in ("A study", "A denoiser"):
        follow(title, root)
    return root


def output_of(root, command):
    done = run(root, command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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
    added = "src/catreparam/masked_diffusion/neighbours.py src/catreparam/experiments/cosine/study.py"
    output_of(house, f"python -m pytest -q {added}")
    output_of(house, f"ruff check {added} && ruff format --check {added} && pyright {added}")
    assert not [name for name in added.split() if name in run(house, "python scripts/size_gate.py").stdout]
