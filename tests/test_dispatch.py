"""Which path a call takes, and that the environment decides where it should."""

import gc
import os
import subprocess
import sys

import pytest
import torch

import catreparam
from catreparam.kernels import dispatch
from catreparam.kernels.compiled import autograd as compiled_path
from catreparam.kernels.compiled import library
from catreparam.kernels.methods import METHODS, Method
from catreparam.kernels.settings import Setting
from catreparam.kernels.torch.adjoints import ADJOINTS, Direct
from methods import seeded, setting_for


def path_of(logits=None, method="redge"):
    return dispatch.choose_path(setting_for(method), torch.zeros(3, 4) if logits is None else logits)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", "")


def test_compiled_kernels_go_first_where_they_were_built():
    assert path_of() == ("compiled" if library.BUILT else "torch")


@pytest.mark.parametrize("path", ["torch", "naive"])
def test_the_environment_names_the_path(path, monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", path)
    assert path_of() == path


def test_without_compiled_kernels_the_torch_path_is_taken(monkeypatch):
    monkeypatch.setattr(library, "BUILT", False)
    assert path_of() == "torch"
    assert path_of(method="gumbel_softmax") == "naive"
    monkeypatch.setattr(dispatch, "_wanted", "compiled")
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
    monkeypatch.setattr(dispatch, "_wanted", "torhc")
    with pytest.raises(ValueError, match=r"CATREPARAM_KERNELS 'torhc'.*'torch'.*compiled, naive, torch"):
        catreparam.redge(torch.zeros(3, 4))


@pytest.mark.parametrize("path", ["torch", "naive"])
@pytest.mark.parametrize("name", ["redge", "exact_redge", "straight_through"])
def test_every_path_refuses_the_same_input(name, path, monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", path)
    estimator = catreparam.ESTIMATORS[name]
    for bad, message in ((torch.nan, "NaN"), (torch.inf, r"\+inf"), (-torch.inf, "no class")):
        with pytest.raises(ValueError, match=message):
            estimator(torch.full((2, 3), bad))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_the_torch_path_keeps_its_dtype(dtype, monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", "torch")
    logits = torch.zeros(5, 3, dtype=dtype, requires_grad=True)
    x = catreparam.redge(logits, generator=seeded())
    x.float().square().sum().backward()
    assert (x.dtype, logits.grad.dtype) == (dtype, dtype)


def test_the_environment_is_read_at_import():
    code = "from catreparam.kernels import dispatch; print(dispatch.wanted())"
    environment = {**os.environ, dispatch.ENVIRONMENT: "naive"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "naive"


def test_a_path_is_used_inside_a_block_only():
    with dispatch.using("naive"):
        assert path_of() == "naive"
    assert path_of() == ("compiled" if library.BUILT else "torch")
    with pytest.raises(ValueError, match="fast"), dispatch.using("fast"):
        pass


@pytest.mark.skipif(not library.BUILT, reason="the kernels were not built")
@pytest.mark.parametrize("bad", [1, 2.0, True])
def test_a_wrong_type_meets_its_error_after_the_right_one_was_cached(bad):
    catreparam.redge(torch.zeros(2, 3), num_steps=1, t1=0.5)
    if bad == 1:
        catreparam.redge(torch.zeros(2, 3), num_steps=1, t1=1)  # an int is a number
        return
    with pytest.raises(TypeError, match="num_steps"):
        catreparam.redge(torch.zeros(2, 3), num_steps=bad)


@pytest.mark.parametrize("estimator", [catreparam.redge, catreparam.exact_redge])
def test_hyperparameters_are_looked_up_by_value_and_type(estimator):
    logits = torch.zeros(3, 4)
    for _ in range(2):  # the second time what was good is known already
        estimator(logits, num_steps=1, t1=1.0)
        with pytest.raises(TypeError, match="num_steps must be an int, got True"):
            estimator(logits, num_steps=True)
        with pytest.raises(TypeError, match="t1 must be a number or a tensor, got list"):
            estimator(logits, t1=[0.5])
        with pytest.raises(TypeError, match="hard must be True or False, got 2"):
            estimator(logits, hard=2)
        assert torch.equal(estimator(logits, hard=1, generator=seeded()), estimator(logits, generator=seeded()))


def test_a_lazily_negated_view_is_read_with_its_sign():
    logits = torch._neg_view(torch.tensor([[0.0, 90.0], [90.0, 0.0]]))
    assert path_of(logits) == "torch"
    assert catreparam.straight_through(logits).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert catreparam.redge(logits.requires_grad_()).tolist() == [[1.0, 0.0], [0.0, 1.0]]


class NegatedLazily(torch.autograd.Function):
    """The identity, whose gradient comes as a view that is negated when it is read."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *gradients):
        return torch._neg_view(-gradients[0])


@pytest.mark.parametrize("name", ["straight_through", "redge", "redge_cov", "exact_redge", "reinmax", "gumbel_softmax"])
def test_a_lazily_negated_gradient_is_read_with_its_sign(name):
    """On the path of a plain call (with the node where it is built), and on torch's."""
    logits, weights = torch.randn(4, 5, generator=seeded()).requires_grad_(), torch.randn(4, 5, generator=seeded())

    def gradient(lazily):
        x = catreparam.ESTIMATORS[name](logits, generator=seeded())
        return torch.autograd.grad(((NegatedLazily.apply(x) if lazily else x) * weights).sum(), logits)[0]

    assert torch.equal(gradient(lazily=True), gradient(lazily=False))
    with dispatch.using("torch"):
        assert torch.equal(gradient(lazily=True), gradient(lazily=False))


@pytest.mark.skipif(not library.BUILT, reason="the kernels were not built")
def test_forgotten_settings_give_back_their_memory():
    def forget_all():
        for forget in (*library.CACHES, library._plan.cache_clear):
            forget()

    def count():
        gc.collect()
        return sum(type(thing) in (library.CPlan, library.Job) for thing in gc.get_objects())

    forget_all()
    before = count()
    logits = torch.zeros(2, 3, requires_grad=True)
    for i in range(20):
        catreparam.redge(logits, t1=0.5 + i / 1000).sum().backward()
    assert count() == before + 40
    forget_all()
    assert count() == before


def new_method(rule):
    """A method that only the paths which know the rule can take."""

    def brand_new_surrogate(logits):
        return torch.softmax(logits, -1)

    return Setting(Method(brand_new_surrogate, rule))


@pytest.fixture
def _methods_as_they_were(monkeypatch):
    monkeypatch.setattr("catreparam.kernels.methods.METHODS", dict(METHODS))


@pytest.mark.usefixtures("_methods_as_they_were")
def test_a_method_without_fast_paths_takes_the_naive_one():
    setting, logits = new_method(None), torch.zeros(3, 4, requires_grad=True)
    assert dispatch.choose_path(setting, logits) == "naive"
    with pytest.raises(
        ValueError, match=r"brand_new does not say how its naive path draws: give its Method\(draw=...\)"
    ):
        dispatch.sample(logits, None, -1, None, setting)
    assert [dispatch.why_not(path, setting, logits) for path in ("compiled", "torch")] == [
        "brand_new has no compiled kernel",
        "brand_new has no torch path",
    ]


@pytest.mark.usefixtures("_methods_as_they_were")
def test_a_method_with_a_torch_path_alone_never_meets_a_kernel(monkeypatch):
    class Doubled(Direct):
        def gradient(self, upstream, x):
            return 2 * super().gradient(upstream, x)

    monkeypatch.setitem(ADJOINTS, 99, Doubled)
    setting, upstream = new_method(99), torch.randn(3, 4)
    for dtype in (torch.float32, torch.float64):
        logits = torch.randn(3, 4, dtype=dtype, requires_grad=True)
        assert dispatch.choose_path(setting, logits) == "torch"
        x = dispatch.sample(logits, None, -1, seeded(), setting)
        (found,) = torch.autograd.grad(x, logits, upstream.to(dtype))
        wanted = 2 * torch.autograd.grad(torch.softmax(logits, -1), logits, upstream.to(dtype))[0]
        assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.skipif(not library.BUILT, reason="the kernels were not built")
@pytest.mark.usefixtures("_methods_as_they_were")
def test_kernels_handed_a_method_they_do_not_know_refuse():
    logits = torch.zeros(3, 4)
    for sample in (compiled_path.sample_usual, compiled_path._sample_in_python):
        assert sample(new_method(99), logits, None) is None
    with pytest.raises(ValueError, match="brand_new has no compiled kernel"):
        library.forward(new_method(99), logits, 0)
