"""CategoricalBottleneck: modes, codebook, usage, state."""

import copy
import pickle

import pytest
import torch

from catreparam import ESTIMATORS, make_estimator
from catreparam.nn import CategoricalBottleneck
from methods import REPARAMETERISED, seeded

LOGITS = torch.randn(6, 3, 5, generator=seeded(1))


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_training_draws_with_the_estimators_gradient(name):
    logits = LOGITS.clone().requires_grad_()
    weights = torch.randn(LOGITS.shape, generator=seeded(2))
    found = [
        torch.autograd.grad((sampler(logits, generator=seeded()) * weights).sum(), logits)[0]
        for sampler in (CategoricalBottleneck(5, estimator=name), ESTIMATORS[name])
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize(("mode", "training"), [(m, t) for m in ("sample", "argmax", "mean") for t in (True, False)])
def test_each_mode_does_what_it_says(mode, training):
    module = CategoricalBottleneck(5, train_mode=mode, eval_mode=mode).train(training)
    logits = LOGITS.clone().requires_grad_()
    x = module(logits, generator=seeded())
    wanted = {
        "sample": lambda: ESTIMATORS["reinmax"](LOGITS, generator=seeded()),
        "argmax": lambda: torch.nn.functional.one_hot(LOGITS.argmax(-1), 5).float(),
        "mean": lambda: torch.softmax(LOGITS, -1),
    }[mode]()
    assert torch.allclose(x, wanted)
    if mode != "sample":  # the gradient is softmax's
        found = torch.autograd.grad((x * LOGITS).sum(), logits)[0]
        assert torch.allclose(found, torch.autograd.grad((torch.softmax(logits, -1) * LOGITS).sum(), logits)[0])


def test_the_default_samples_while_training_and_takes_the_best_in_eval_mode():
    module = CategoricalBottleneck(5)
    assert not torch.equal(module(LOGITS), module(LOGITS))
    assert torch.equal(module.eval()(LOGITS).argmax(-1), LOGITS.argmax(-1))


def test_a_codebook_gives_embeddings_and_learns():
    module = CategoricalBottleneck(5, embedding_dim=7, generator=seeded())
    logits = LOGITS.clone().requires_grad_()
    out = module(logits, generator=seeded(3))
    index = module.codes(LOGITS, generator=seeded(3)).argmax(-1)
    assert torch.allclose(out, module.codebook[index])
    out.square().sum().backward()
    assert module.codebook.grad.abs().sum() > 0
    assert logits.grad.abs().sum() > 0


def test_usage_is_a_moving_average_of_what_was_drawn():
    module = CategoricalBottleneck(5, train_mode="argmax", usage_momentum=0.5)
    certain = torch.eye(5).mul(50)
    assert module.perplexity.item() == pytest.approx(5)
    module(certain[:1])
    assert torch.allclose(module.usage, torch.eye(5)[0])
    assert module.perplexity.item() == pytest.approx(1)
    module(certain[1:2].expand(4, 2, 5))
    assert torch.allclose(module.usage, torch.tensor([0.5, 0.5, 0, 0, 0]))
    assert module.perplexity.item() == pytest.approx(2)
    module.eval()(certain)
    assert module.num_batches == 2
    module.reset_usage()
    assert module.perplexity.item() == pytest.approx(5)


def test_masked_classes_are_never_used():
    mask = torch.tensor([True, False, True, False, True])
    module = CategoricalBottleneck(5)
    for mode in ("sample", "argmax", "mean"):
        module.train_mode = mode
        assert not module(LOGITS, mask)[..., ~mask].any()


def test_state_dict_goes_round_and_modules_copy_and_pickle():
    module = CategoricalBottleneck(5, embedding_dim=3, estimator=make_estimator("redge", t1=0.3))
    module(LOGITS)
    twins = [CategoricalBottleneck(5, embedding_dim=3, estimator=make_estimator("redge", t1=0.3))]
    twins[0].load_state_dict(module.state_dict())
    twins += [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
    for twin in twins:
        assert torch.equal(twin(LOGITS, generator=seeded()), copy.deepcopy(module)(LOGITS, generator=seeded()))
    assert twins[1].num_batches == 2
    assert list(module.state_dict()) == ["codebook", "usage", "num_batches"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_codes_keep_the_dtype_of_the_logits(dtype):
    assert CategoricalBottleneck(5)(LOGITS.to(dtype)).dtype == dtype


def test_without_tracking_it_is_a_pure_function():
    module = CategoricalBottleneck(5, embedding_dim=2, track_usage=False)
    gradients = torch.vmap(torch.func.grad(lambda row: module(row).sum()), randomness="different")(LOGITS)
    assert gradients.shape == LOGITS.shape
    assert module.num_batches is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1"),
        ({"embedding_dim": 0}, ValueError, "embedding_dim must be at least 1"),
        ({"train_mode": "sampel"}, ValueError, "unknown train_mode 'sampel'. Did you mean 'sample'"),
        ({"eval_mode": "soft"}, ValueError, "unknown eval_mode"),
        ({"usage_momentum": 1.5}, ValueError, "usage_momentum must be at least 0 and at most 1"),
        ({"track_usage": 2}, TypeError, "track_usage must be True or False"),
        ({"estimator": "rloo"}, ValueError, "rloo needs the objective"),
        ({"estimator": "regde"}, ValueError, "Did you mean 'redge'"),
    ],
)
def test_bad_settings_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        CategoricalBottleneck(**{"num_classes": 5, **arguments})


def test_logits_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"must have 4 classes, got shape \(6, 3, 5\)"):
        CategoricalBottleneck(4)(LOGITS)


def test_print_shows_the_settings():
    assert repr(CategoricalBottleneck(5, embedding_dim=2, estimator="redge")) == (
        "CategoricalBottleneck(5, embedding_dim=2, estimator=redge, train_mode='sample', eval_mode='argmax')"
    )
