"""TopKRouter: the choice, the weights, the gradient, the balance."""

import copy
import pickle

import pytest
import torch

from catreparam.categorical import covariance_product
from catreparam.nn import TopKRouter
from methods import seeded

TOKENS = torch.randn(4, 6, 8, generator=seeded(1))


def router(**settings) -> TopKRouter:
    made = TopKRouter(8, **{"num_experts": 5, "k": 2, **settings})
    with torch.no_grad():
        made.projection.weight.copy_(torch.randn(5, 8, generator=seeded(2)) / 2)
    return made


@pytest.mark.parametrize("estimator", ["reinmax", "redge", "gumbel_softmax", None])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_k_different_experts_get_weights_that_sum_to_one(estimator, k):
    routing = router(k=k, estimator=estimator)(TOKENS, generator=seeded())
    assert routing.experts.shape == (4, 6, k)
    assert bool(((routing.weights > 0).sum(-1) == k).all())
    assert bool((routing.weights.gather(-1, routing.experts) > 0).all())
    assert torch.allclose(routing.weights.sum(-1), torch.ones(4, 6))


def test_weights_are_the_chosen_probabilities_renormalised_or_uniform():
    routing = router()(TOKENS, generator=seeded())
    chosen = routing.weights > 0
    kept = routing.probs * chosen
    assert torch.allclose(routing.weights, kept / kept.sum(-1, keepdim=True))
    uniform = router(gates="uniform")(TOKENS, generator=seeded())
    assert torch.equal(uniform.weights, 0.5 * (uniform.weights > 0))


def test_eval_mode_takes_the_most_probable():
    routing = router().eval()(TOKENS)
    assert torch.equal(routing.experts, routing.probs.topk(2, -1).indices)


@pytest.mark.statistical
def test_draws_are_without_replacement_from_what_is_left():  # |z| > 5: fails by chance less than once in 10^5
    module = router()
    token = TOKENS[0, 0].expand(20_000, 8)
    routing = module(token, generator=seeded())
    p = routing.probs[0].double()
    pairs = p[:, None] * p[None, :] / (1 - p[:, None])  # first i, then j
    counts = torch.zeros(5, 5).index_put((routing.experts[:, 0], routing.experts[:, 1]), torch.ones(20_000), True)
    assert not counts.diagonal().any()
    off = ~torch.eye(5, dtype=torch.bool)
    wanted = 20_000 * pairs[off]
    assert bool(((counts[off] - wanted).abs() < 5 * wanted.sqrt()).all())


def test_the_gradient_of_one_uniform_choice_is_straight_throughs():
    module = router(k=1, gates="uniform", estimator="straight_through")
    upstream = torch.randn(4, 6, 5, generator=seeded(3))
    logits = module.projection(TOKENS)
    wanted = torch.autograd.grad(
        logits, module.projection.weight, covariance_product(torch.softmax(logits, -1), upstream)
    )
    found = torch.autograd.grad((module(TOKENS).weights * upstream).sum(), module.projection.weight)
    assert torch.allclose(found[0], wanted[0], atol=1e-5)


@pytest.mark.parametrize("run_all", [True, False], ids=["all experts run", "chosen experts run"])
def test_an_expert_that_does_not_run_counts_as_a_slope_of_zero(run_all):
    """The table under "Which experts must run?" of docs/guides/moe.md."""
    module = router(k=1, gates="uniform", estimator="straight_through")
    outputs, upstream = torch.randn(4, 6, 5, 3, generator=seeded(4)), torch.randn(4, 6, 3, generator=seeded(5))
    routing = module(TOKENS, generator=seeded())
    if run_all:
        mixed, counted = (routing.weights.unsqueeze(-1) * outputs).sum(-2), torch.ones(4, 6, 5)
    else:  # dispatched: the others' outputs are never made
        chosen = routing.experts.unsqueeze(-1).expand(-1, -1, -1, 3)
        mixed = (routing.weights.gather(-1, routing.experts).unsqueeze(-1) * outputs.gather(-2, chosen)).sum(-2)
        counted = (routing.weights > 0).float()
    found = torch.autograd.grad((mixed * upstream).sum(), module.projection.weight)[0]
    slopes = (outputs * upstream.unsqueeze(-2)).sum(-1)
    logits = module.projection(TOKENS)
    through = covariance_product(torch.softmax(logits, -1), slopes * counted)
    assert torch.allclose(found, torch.autograd.grad(logits, module.projection.weight, through)[0], atol=1e-5)


def test_without_an_estimator_only_the_gates_get_a_gradient():
    upstream = torch.randn(4, 6, 5, generator=seeded(3))
    for k, some in ((1, False), (2, True)):
        module = router(k=k, estimator=None)
        (module(TOKENS, generator=seeded()).weights * upstream).sum().backward()
        assert (module.projection.weight.grad.abs().max() > 1e-6) == some
    module = router(gates="uniform", estimator=None)
    assert not module(TOKENS).weights.requires_grad


def test_load_balancing_loss_is_one_when_balanced_and_num_experts_at_worst():
    module = router(k=1).eval()
    with torch.no_grad():
        module.projection.weight.zero_()
    assert module(TOKENS).load_balancing_loss.item() == pytest.approx(1.0)
    with torch.no_grad():
        module.projection.weight[3] = 100.0
    assert module(torch.ones(7, 8)).load_balancing_loss.item() == pytest.approx(5.0)
    loss = router()(TOKENS).load_balancing_loss
    assert loss.requires_grad


def test_padding_gets_no_weight_and_does_not_count():
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[:, 4:] = False
    module = router().eval()
    padded = module(torch.where(mask.unsqueeze(-1), TOKENS, 9.0), token_mask=mask)
    plain = module(TOKENS[:, :4])
    assert not padded.weights[:, 4:].any()
    assert torch.equal(padded.weights[:, :4], plain.weights)
    assert torch.allclose(padded.load_balancing_loss, plain.load_balancing_loss)
    assert module(TOKENS, token_mask=torch.zeros(4, 6, dtype=torch.bool)).load_balancing_loss == 0


def test_forbidden_experts_are_never_chosen():
    allowed = torch.tensor([True, False, True, True, False])
    for module in (router(), router().eval()):
        assert not module(TOKENS, expert_mask=allowed).weights[..., ~allowed].any()
    with pytest.raises(ValueError, match="at least k=2 experts"):
        router()(TOKENS, expert_mask=torch.tensor([True, False, False, False, False]))


def test_jitter_acts_while_training_only():
    module = router(jitter=0.5, train_mode="topk")
    assert not torch.equal(module(TOKENS).probs, module(TOKENS).probs)
    assert torch.equal(module(TOKENS, generator=seeded()).probs, module(TOKENS, generator=seeded()).probs)
    module.eval()
    assert torch.equal(module(TOKENS).probs, module(TOKENS).probs)


def test_state_dict_goes_round_and_modules_copy_and_pickle():
    module = router()
    twin = TopKRouter(8, num_experts=5, k=2)
    twin.load_state_dict(module.state_dict())
    for other in (twin, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(TOKENS, generator=seeded()).weights, module(TOKENS, generator=seeded()).weights)
    assert "num_experts=5, k=2, estimator=reinmax" in repr(module)


def test_half_precision_routes_without_nan():
    module = router().to(torch.bfloat16)
    routing = module(TOKENS.to(torch.bfloat16))
    assert (routing.weights.dtype, routing.probs.dtype) == (torch.bfloat16, torch.float32)
    assert bool(routing.weights.isfinite().all())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"k": 6}, ValueError, "k must be at most num_experts=5, got 6"),
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"jitter": 1.0}, ValueError, "jitter must be"),
        ({"gates": "softmax"}, ValueError, "unknown gates 'softmax'"),
        ({"train_mode": "top"}, ValueError, "Did you mean 'topk'"),
        ({"estimator": "reinforce"}, ValueError, "reinforce needs the objective"),
        ({"capacity": 0}, ValueError, "capacity must be at least 1, got 0"),
        ({"capacity_factor": 0.0}, ValueError, "capacity_factor must be greater than 0"),
        ({"capacity": 2, "capacity_factor": 1.0}, ValueError, "give capacity or capacity_factor"),
        ({"normalize": 2}, TypeError, "normalize must be True or False"),
    ],
)
def test_bad_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        router(**settings)


FULL = torch.ones(4, 6, dtype=torch.bool)


@pytest.mark.parametrize("name", ["token_mask", "expert_mask"])
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda mask: mask.tolist(), TypeError, "must be a boolean torch.Tensor .* got list"),
        (lambda mask: mask.numpy(), TypeError, "must be a boolean torch.Tensor .* got ndarray"),
        (lambda mask: mask.to(torch.uint8), TypeError, "must be boolean .* got torch.uint8; compare it"),
        (lambda mask: mask.float(), TypeError, "must be boolean .* got torch.float32; compare it"),
        (lambda mask: mask[:3], ValueError, r"shape \(3, 6\)|shape \(3, 6, 5\)"),
        (lambda mask: mask[None, None], ValueError, r"shape \(1, 1, 4, 6"),
    ],
)
def test_bad_masks_are_named(name, make, error, message):
    mask = FULL if name == "token_mask" else FULL.unsqueeze(-1).expand(4, 6, 5)
    for training in (True, False):
        with pytest.raises(error, match=f"{name} .*({message})"):
            router().train(training)(TOKENS, **{name: make(mask)})


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("mode", ["sample", "topk"])
def test_tokens_that_are_not_finite_are_refused_unless_they_are_padding(bad, mode):
    tokens, mask = TOKENS.clone(), FULL.clone()
    tokens[1, 2, 3], mask[1, 2] = bad, False
    module = router(train_mode=mode, eval_mode=mode)
    for training in (True, False):
        with pytest.raises(ValueError, match="logits hold"):
            module.train(training)(tokens)
        routing = module(tokens, token_mask=mask)
        (routing.weights.square().sum() + routing.load_balancing_loss + routing.z_loss).backward()
        assert bool(module.projection.weight.grad.isfinite().all())
        assert not routing.weights[1, 2].any()


def test_weights_may_stay_as_they_are():
    for training in (True, False):
        routing = router(normalize=False).train(training)(TOKENS)
        chosen = torch.zeros_like(routing.probs).scatter(-1, routing.experts, 1.0)
        assert torch.allclose(routing.weights, routing.probs * chosen)
        routing = router(normalize=False, gates="uniform").train(training)(TOKENS)
        assert torch.equal(routing.weights, torch.zeros_like(routing.probs).scatter(-1, routing.experts, 1.0))


def test_logits_and_z_loss_are_in_the_result():
    module, allowed = router().eval(), torch.tensor([True, False, True, True, True])
    routing = module(TOKENS, expert_mask=allowed)
    assert torch.equal(routing.logits[..., allowed], module.projection(TOKENS)[..., allowed])
    assert bool((routing.logits[..., ~allowed] == -torch.inf).all())
    assert torch.allclose(routing.z_loss, routing.logits.logsumexp(-1).square().mean())
    mask = FULL.clone()
    mask[:, 4:] = False
    assert torch.allclose(module(TOKENS, token_mask=mask).z_loss, module(TOKENS[:, :4]).z_loss)
    assert torch.autograd.grad(routing.z_loss, module.projection.weight)[0].abs().max() > 1e-3


def by_hand(experts, capacity, mask):
    """First choices of all tokens in order, then second ones: who finds room."""
    kept = torch.zeros_like(experts, dtype=torch.bool)
    for sequence in range(experts.shape[0]):
        taken = [0] * 5
        for rank in range(experts.shape[2]):
            for token in range(experts.shape[1]):
                expert = int(experts[sequence, token, rank])
                if mask[sequence, token]:
                    taken[expert] += 1
                    kept[sequence, token, rank] = taken[expert] <= capacity
    return kept


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize(("settings", "capacity"), [({"capacity": 1}, 1), ({"capacity_factor": 1.0}, None)])
def test_full_experts_drop_tokens(k, settings, capacity):
    mask = FULL.clone()
    mask[0, :2] = False
    routing = router(k=k, **settings)(TOKENS, token_mask=mask, generator=seeded())
    free = router(k=k)(TOKENS, token_mask=mask, generator=seeded())
    wanted = by_hand(routing.experts, capacity or -(-k * 6 // 5), mask)
    assert torch.equal(routing.kept, wanted)
    assert torch.equal(free.kept, mask.unsqueeze(-1).expand(4, 6, k))
    assert not routing.kept[mask].all()
    room = torch.zeros_like(routing.weights).scatter(-1, routing.experts, wanted.float())
    assert torch.equal(routing.weights, free.weights * room)
    assert torch.equal(routing.load_balancing_loss, free.load_balancing_loss)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"tokens must have size 8, got shape \(4, 6, 5\)"):
        router()(TOKENS[..., :5])
