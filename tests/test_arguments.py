"""What callers pass that an estimator does not have: `hard` everywhere, other libraries' names."""

import inspect
import pickle

import pytest
import torch

import catreparam
from catreparam import ESTIMATORS, make_estimator
from catreparam.distributions import ReparameterizedCategorical
from catreparam.estimators.arguments import MEANINGS
from catreparam.estimators.facts import facts_of
from methods import seeded

SPELLINGS = sorted({name for meaning in MEANINGS for name in meaning.spellings})
LOGITS = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.5]])


def gradient(function, *arguments, **keywords):
    logits = LOGITS.clone().requires_grad_()
    first = (lambda x: x[..., 0] ** 2,) if facts_of(function).takes_objective else ()
    out = function(*first, logits, *arguments, generator=seeded(), **keywords)
    weighted = (out * torch.arange(1.0, 1 + out.numel()).view_as(out)).sum()
    return out.detach(), *torch.autograd.grad(weighted, logits)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_hard_true_changes_nothing_and_hard_false_is_one_error_where_nothing_is_relaxed(name):
    plain = gradient(ESTIMATORS[name])
    assert all(map(torch.equal, gradient(ESTIMATORS[name], hard=True), plain))
    assert all(map(torch.equal, gradient(make_estimator(name, hard=True)), gradient(make_estimator(name))))
    if not facts_of(name).relaxes:
        remedy = f"{name} has no relaxed sample: leave hard=False out, or use one of .*gumbel_softmax"
        for wrong in (lambda: gradient(ESTIMATORS[name], hard=False), lambda: make_estimator(name, hard=False)):
            with pytest.raises(ValueError, match=remedy):
                wrong()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_names_of_other_libraries_are_answered_with_the_remedy(name):
    taken = list(inspect.signature(ESTIMATORS[name]).parameters)
    for spelling in {*SPELLINGS, "nonsense"} - set(taken):
        with pytest.raises(TypeError) as raised:
            gradient(ESTIMATORS[name], **{spelling: 0.5})
        said = str(raised.value)
        assert said.startswith(f"{name} has no {spelling}; ")
        used = said.partition("; use ")[2].split(",")[0]
        assert not used or used in taken
        if spelling not in facts_of(name).hyperparameters:
            with pytest.raises(ValueError, match=f"unknown hyperparameter of {name} '{spelling}'; "):
                make_estimator(name, **{spelling: 0.5})


@pytest.mark.parametrize(
    ("name", "wrong", "remedy"),
    [
        ("redge", "tau", r"use t1, in \(0, 1\]"),
        ("redge", "n_steps", "use num_steps, which counts denoiser evaluations"),
        ("redge", "sovler", "did you mean solver?"),
        ("gumbel_rao", "K", "use num_noises"),
        ("gumbel_rao", "t_1", "it runs no diffusion"),
        ("reinmax", "tau", "use temperature"),
        ("decoupled_straight_through", "tau", "use backward_temperature"),
        ("straight_through", "tau", "it has no temperature; leave it out"),
        ("lambda_reinmax", "lam", "use weight"),
        ("exact_redge", "weight", "use second_order_weight"),
        ("rloo", "n_samples", "use num_samples"),
        ("reinmax", "num_samples", "average samples by expectation"),
        ("rloo", "dim", "move the classes to the last axis"),
    ],
)
def test_the_remedy_says_what_to_write(name, wrong, remedy):
    with pytest.raises(TypeError, match=f"{name} has no {wrong}; {remedy}"):
        gradient(ESTIMATORS[name], **{wrong: 0.5})


def test_distributions_give_the_remedy_too():
    with pytest.raises(ValueError, match="redge has no hyperparameter 'temperature'; use t1"):
        ReparameterizedCategorical(logits=LOGITS, estimator="redge", temperature=1.0)


def test_a_type_error_of_the_objective_is_its_own():
    with pytest.raises(TypeError, match="mine"):
        catreparam.rloo(lambda x: (_ for _ in ()).throw(TypeError("mine")), LOGITS, num_samples=2)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_functions_keep_their_name_and_pickle(name):
    function = ESTIMATORS[name]
    assert pickle.loads(pickle.dumps(function)) is function is getattr(catreparam, name)
    assert function.__name__ == name
    assert function.__doc__


def test_hard_is_understood_inside_torch_compile():
    @torch.compile(fullgraph=True, backend="eager")
    def compiled(logits):
        names = ("straight_through", "reinmax", "gumbel_softmax", "redge")
        return torch.stack([ESTIMATORS[name](logits, hard=True) for name in names]).sum((0, 2))

    assert compiled(LOGITS).tolist() == [4.0, 4.0]
