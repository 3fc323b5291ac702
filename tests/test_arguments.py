"""What callers pass that an estimator does not have: `hard` everywhere, other libraries' names."""

import inspect
import pickle
import re

import numpy as np
import pytest
import torch

import catreparam
from catreparam import (
    ESTIMATORS,
    distributions,
    guidance,
    make_estimator,
    masked_diffusion,
    nn,
    schedules,
    takes_objective,
)
from catreparam.arguments import MEANINGS
from catreparam.distributions import ReparameterizedBernoulli, ReparameterizedCategorical
from catreparam.estimators.facts import facts_of
from catreparam.guidance import guided_sample
from catreparam.kernels import dispatch
from catreparam.nn import CategoricalBottleneck, GumbelVectorQuantizer, TopKRouter, VectorQuantizer
from methods import seeded

SPELLINGS = sorted({name for meaning in MEANINGS for name in meaning.spellings})
LOGITS = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.5]])
UPSTREAM = torch.tensor([[1.0, -2.0, 0.5], [0.3, 2.0, -1.0]])


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


def test_the_remedy_finds_misspelt_names_of_other_libraries():
    row = torch.zeros(2)
    with pytest.raises(TypeError, match="has no temperatur; use t1"):
        ESTIMATORS["redge"](row, temperatur=0.5)
    with pytest.raises(TypeError, match="has no Tau; use temperature"):
        ESTIMATORS["reinmax"](row, Tau=0.5)
    with pytest.raises(ValueError, match="Did you mean 'redge'"):
        make_estimator("REDGE")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_positions_are_one_clear_error(name):
    function, first = ESTIMATORS[name], (torch.sum,) if facts_of(name).takes_objective else ()
    taken = [key for key, p in inspect.signature(function).parameters.items() if p.kind is not p.KEYWORD_ONLY]
    surplus = (*first, LOGITS, *[None] * (len(taken) - 1 - len(first)), 1.0, True)
    with pytest.raises(TypeError, match=rf"{name} takes {', '.join(taken)} by position, got 2 more; give the rest by"):
        function(*surplus)


def test_made_estimators_take_torchs_spelling_and_answer_what_belongs_to_the_call():
    made = make_estimator("gumbel_softmax", tau=0.5)
    assert repr(made) == "make_estimator('gumbel_softmax', tau=0.5)"
    assert all(map(torch.equal, gradient(made), gradient(catreparam.gumbel_softmax, tau=0.5)))
    with pytest.raises(ValueError, match="tau is torch's name for temperature: give one of them"):
        make_estimator("gumbel_softmax", tau=0.5, temperature=0.7)
    for key in ("generator", "mask", "dim", "num_samples"):
        with pytest.raises(ValueError, match=f"unknown hyperparameter of rloo '{key}'; it belongs to the call"):
            make_estimator("rloo", **{key: None})


HAND_ON = {
    "ReparameterizedCategorical": lambda **more: ReparameterizedCategorical(logits=LOGITS, **more),
    "ReparameterizedBernoulli": lambda **more: ReparameterizedBernoulli(logits=LOGITS, **more),
    "CategoricalBottleneck": lambda **more: CategoricalBottleneck(3, **more),
    "VectorQuantizer": lambda **more: VectorQuantizer(4, 3, **more),
    "GumbelVectorQuantizer": lambda **more: GumbelVectorQuantizer(4, 3, **more),
    "TopKRouter": lambda **more: TopKRouter(4, num_experts=3, k=2, **more),
    "expectation": lambda **more: catreparam.expectation(torch.sum, LOGITS, estimator="reinmax", **more),
    "measure": lambda **more: catreparam.measure(torch.sum, LOGITS, estimator="reinmax", **more),
    "guided_sample": lambda **more: guided_sample(None, None, None, estimator="reinmax", **more),  # pyright: ignore
}


@pytest.mark.parametrize("name", HAND_ON)
def test_what_hands_settings_on_says_where_they_go(name):
    taken = inspect.signature(getattr(catreparam, name, None) or HAND_ON[name]).parameters
    for wrong, ours in [
        *(("solver", "solver"), ("second_order_weight", "second_order_weight"), ("sovler", "solver")),
        *(
            ("lam", "weight"),
            ("tau", "temperature"),
            ("temp", "temperature"),
            ("hard", "hard"),
            ("n_steps", "num_steps"),
        ),
    ]:
        if (name, wrong) in {("GumbelVectorQuantizer", "temp"), ("GumbelVectorQuantizer", "hard")} or wrong in taken:
            continue
        with pytest.raises(TypeError, match=f"^{name} has no {wrong}; ") as raised:
            HAND_ON[name](**{wrong: 0.5})
        said = str(raised.value)
        assert f"estimator=make_estimator(name, {ours}=...)" in said or re.search("; use (temp|num_steps)", said)
    with pytest.raises(TypeError, match=f"^{name} has no xyz; it takes: "):
        HAND_ON[name](xyz=1)


def test_constructors_answer_positions_and_keep_their_signature():
    with pytest.raises(
        TypeError, match="ReparameterizedCategorical takes probs, logits, validate_args by position, got"
    ):
        ReparameterizedCategorical(None, LOGITS, None, "redge")  # pyright: ignore
    assert "unimix" in inspect.signature(ReparameterizedCategorical).parameters


@pytest.mark.parametrize("path", ["compiled", "torch", "naive"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_count_and_axis_may_be_a_number_of_numpy(name, path):
    counts = {"dim": 0, "num_steps": 3, "num_noises": 3, "num_samples": 2, "chunk_size": 2, "max_configurations": 100}
    with dispatch.using(path):
        for key in counts.keys() & inspect.signature(ESTIMATORS[name]).parameters:
            plain = gradient(ESTIMATORS[name], **{key: counts[key]})
            for kind in (np.int64, np.int32):
                assert all(map(torch.equal, gradient(ESTIMATORS[name], **{key: kind(counts[key])}), plain))


PUBLIC = [
    cls
    for module in (catreparam, schedules, distributions, nn, guidance, masked_diffusion)
    for cls in (getattr(module, name) for name in module.__all__)
    if isinstance(cls, type) and "<locals>" not in cls.__init__.__qualname__
]


@pytest.mark.parametrize("cls", dict.fromkeys(PUBLIC))
def test_errors_of_constructors_name_the_class_that_was_called(cls):
    with pytest.raises((TypeError, ValueError)) as error:
        cls(**{"no_such_argument": 1})
    assert not re.search(r"\b_\w+\.__init__|RoutesTokens", str(error.value))


@pytest.mark.parametrize(
    "call",
    [
        catreparam.expectation,
        catreparam.measure,
        *(ESTIMATORS[n] for n in ESTIMATORS if takes_objective(ESTIMATORS[n])),
    ],
    ids=lambda call: call.__name__,
)
def test_objective_and_logits_in_the_wrong_order_are_told_apart(call):
    given = {} if call in ESTIMATORS.values() else {"estimator": "reinmax"}
    with pytest.raises(TypeError, match=r"the objective comes first: \(objective, logits\)"):
        call(torch.zeros(2, 3), lambda x: x[..., 0], **given)
    with pytest.raises(TypeError, match="objective comes first"):
        catreparam.tune(torch.zeros(2, 3), lambda x: x[..., 0])


class Mine(nn.TopKRouter):
    """A subclass, as users make them."""


def test_settings_of_the_estimator_are_refused_in_the_name_of_the_users_own_class():
    with pytest.raises(TypeError, match=r"^Mine has no t1"):
        Mine(4, num_experts=2, k=1, t1=0.5)
