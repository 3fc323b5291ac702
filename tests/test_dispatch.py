"""Which path a call takes, and that the environment decides where it should."""

import pytest
import torch

import catreparam
from catreparam.kernels import dispatch, library
from methods import seeded


def path_of(logits=None, method="redge"):
    return dispatch.choose_path(torch.zeros(3, 4) if logits is None else logits, method)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv(dispatch.ENVIRONMENT, raising=False)


def test_compiled_kernels_go_first_where_they_were_built():
    assert path_of() == ("compiled" if library.BUILT else "torch")


@pytest.mark.parametrize("path", ["torch", "naive"])
def test_the_environment_names_the_path(path, monkeypatch):
    monkeypatch.setenv(dispatch.ENVIRONMENT, path)
    assert path_of() == path


def test_without_compiled_kernels_the_torch_path_is_taken(monkeypatch):
    monkeypatch.setattr(library, "BUILT", False)
    assert path_of() == "torch"
    assert path_of(method="gumbel_softmax") == "naive"
    monkeypatch.setenv(dispatch.ENVIRONMENT, "compiled")
    with pytest.raises(RuntimeError, match="not built"):
        path_of()


def test_float64_takes_the_torch_path():
    assert path_of(torch.zeros(3, 4, dtype=torch.float64)) == "torch"


def test_forward_mode_takes_the_naive_path():
    logits = torch.zeros(3, 4, dtype=torch.float64)
    paths = []
    torch.func.jvp(lambda logits: (paths.append(path_of(logits)), logits)[1], (logits,), (logits,))
    assert paths == ["naive"]


def test_an_unknown_path_is_an_error_that_names_the_known_ones(monkeypatch):
    monkeypatch.setenv(dispatch.ENVIRONMENT, "torhc")
    with pytest.raises(ValueError, match=r"CATREPARAM_KERNELS 'torhc'.*'torch'.*compiled, naive, torch"):
        catreparam.redge(torch.zeros(3, 4))


@pytest.mark.parametrize("path", ["torch", "naive"])
@pytest.mark.parametrize("name", ["redge", "exact_redge", "straight_through"])
def test_every_path_refuses_the_same_input(name, path, monkeypatch):
    monkeypatch.setenv(dispatch.ENVIRONMENT, path)
    estimator = catreparam.ESTIMATORS[name]
    for bad, message in ((torch.nan, "NaN"), (torch.inf, r"\+inf"), (-torch.inf, "no class")):
        with pytest.raises(ValueError, match=message):
            estimator(torch.full((2, 3), bad))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_the_torch_path_keeps_its_dtype(dtype, monkeypatch):
    monkeypatch.setenv(dispatch.ENVIRONMENT, "torch")
    logits = torch.zeros(5, 3, dtype=dtype, requires_grad=True)
    x = catreparam.redge(logits, generator=seeded())
    x.float().square().sum().backward()
    assert (x.dtype, logits.grad.dtype) == (dtype, dtype)
