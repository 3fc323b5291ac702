"""The deterministic halves against closed-form Jacobians and against each other."""

import itertools

import pytest
import torch

import catreparam as c
from catreparam.categorical import conditional_gumbel, covariance_product, second_order
from catreparam.estimators.expectation import BatchAxes, cross_fitted_weight, with_baselines
from catreparam.estimators.joint import leave_one_out
from catreparam.kernels.naive.exact_law import sweep_tangent, transport_tangent

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def one_hot(index, num_classes):
    return torch.nn.functional.one_hot(torch.as_tensor(index), num_classes).to(F64)


def gradient(surrogate, logits, upstream):
    return torch.autograd.grad((surrogate * upstream).sum(), logits)[0]


def dense_covariance(p):
    return torch.diag(p) - torch.outer(p, p)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 2.0])
def test_lambda_reinmax_has_the_jacobian_of_its_formula(weight):
    logits, upstream, x = normal(5).requires_grad_(), normal(5, seed=1), one_hot(3, 5)
    p = torch.softmax(logits.detach(), -1)
    jacobian = (1 - weight / 2) * dense_covariance(p) + weight / 2 * torch.outer(x - p, x - p)
    found = gradient(c.lambda_reinmax_surrogate(logits, x=x, weight=weight), logits, upstream)
    assert torch.allclose(found, jacobian @ upstream)


def test_reinmax_at_temperature_one_is_lambda_reinmax_at_weight_one():
    logits, upstream, x = normal(7, 5).requires_grad_(), normal(7, 5, seed=1), one_hot([0, 1, 2, 3, 4, 0, 1], 5)
    first = gradient(c.reinmax_surrogate(logits, x=x), logits, upstream)
    second = gradient(c.lambda_reinmax_surrogate(logits, x=x, weight=1.0), logits, upstream)
    assert torch.allclose(first, second)


@pytest.mark.parametrize("solver", ["euler", "ab2", "heun"])
@pytest.mark.parametrize("grid", ["alpha", "lambda", "quadratic"])
@pytest.mark.parametrize("name", ["redge", "redge_cov"])
def test_redge_gradients_equal_finite_differences(name, grid, solver):
    logits, noise = normal(2, 4).requires_grad_(), normal(2, 4, seed=1)
    schedule = c.make_schedule(grid, 4, 0.3)
    surrogate = getattr(c, f"{name}_surrogate")
    assert torch.autograd.gradcheck(
        lambda logits: surrogate(logits, noise=noise, schedule=schedule, solver=solver), (logits,)
    )


@pytest.mark.parametrize("name", ["redge", "redge_cov"])
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("ab2", 2), ("heun", 2)])
def test_solvers_converge_at_their_order(name, solver, order):
    logits, noise = normal(50, 4), normal(50, 4, seed=1)
    surrogate = getattr(c, f"{name}_surrogate")

    def run(num_steps, solver=solver):
        return surrogate(logits, noise=noise, schedule=c.lambda_grid(num_steps, 0.4), solver=solver)

    truth = run(4001, "heun")
    coarse, fine = ((run(steps) - truth).abs().mean() for steps in (41, 81))
    assert 0.85 * 2**order < coarse / fine < 1.2 * 2**order


@pytest.mark.parametrize("name", ["redge", "redge_cov", "reindge", "exact_redge", "transport_redge"])
def test_t1_of_one_is_straight_through(name):
    logits, upstream, x = normal(6, 4).requires_grad_(), normal(6, 4, seed=1), one_hot([0, 1, 2, 3, 0, 1], 4)
    surrogate = getattr(c, f"{name}_surrogate")(
        logits, noise=normal(6, 4, seed=2), x=x, schedule=c.make_schedule("alpha", 3, 1.0)
    )
    limit = c.reinmax_surrogate(logits, x=x) if name == "reindge" else c.straight_through_surrogate(logits)
    assert torch.allclose(gradient(surrogate, logits, upstream), gradient(limit, logits, upstream))


def test_single_step_feeds_the_noise_straight_into_the_last_denoiser():
    logits, noise = normal(6, 4), normal(6, 4, seed=1)
    x_soft = c.redge_surrogate(logits, noise=noise, schedule=c.alpha_grid(1, 0.25))
    assert torch.allclose(x_soft, torch.softmax(logits + 3 * noise, -1))


def test_sweep_converges_to_the_pathwise_derivative_of_the_exact_flow():
    # z(lambda_1) as a function of the logits at fixed z(0), differentiated by autograd through a fine Heun solve
    logits, z0, upstream = normal(3, 4).requires_grad_(), normal(3, 4, seed=1), normal(3, 4, seed=2)
    fine = c.lambda_grid(2001, 0.4)
    z = z0
    for start, end in fine.intervals():
        slope = torch.softmax(logits + start * z, -1)
        z = z + (end - start) / 2 * (slope + torch.softmax(logits + end * (z + (end - start) * slope), -1))
    wanted = gradient(z, logits, upstream)
    errors = []
    for steps in (9, 17):
        moved = sweep_tangent(logits, z.detach(), logits, c.lambda_grid(steps, 0.4))
        errors.append((gradient(moved, logits, upstream) - wanted).abs().max())
    assert errors[1] < 2e-3
    assert 3.2 < errors[0] / errors[1] < 5  # second order


@pytest.mark.parametrize("num_classes", [2, 3, 6])
@pytest.mark.parametrize("lam", [0.1, 0.7, 1.5, 4.0])
def test_transport_flow_equals_its_integral_by_quadrature(num_classes, lam):
    logits = 2 * normal(40, num_classes)
    x = one_hot(torch.arange(40) % num_classes, num_classes)
    z = lam * x + normal(40, num_classes, seed=1)
    p = torch.softmax(logits, -1)
    nodes, weights = (torch.from_numpy(a) for a in __import__("numpy").polynomial.legendre.leggauss(200))
    s = (nodes + 1) / 2
    vertex = torch.eye(num_classes, dtype=F64)
    segment = p[:, None, None] + s[:, None, None] * (vertex[None, None] - p[:, None, None])  # [rows, s, k, K]
    density = (-(z[:, None, None] - lam * segment).square().sum(-1) / 2).exp()
    integral = (weights[None, :, None] / 2 * density).sum(1)
    mixture = (p * (-(z[:, None] - lam * vertex).square().sum(-1) / 2).exp()).sum(-1, keepdim=True)
    mass = integral / mixture * covariance_product(p, logits)
    wanted = lam * (mass - p * mass.sum(-1, keepdim=True))
    assert torch.allclose(transport_tangent(logits, z, logits, lam), wanted, rtol=1e-6, atol=1e-9)


def test_transport_stays_finite_for_certain_rows_and_far_noise():
    logits = torch.tensor([[0.0, 60.0, -60.0], [0.0, 0.0, -torch.inf], [500.0, 0.0, 0.0]], dtype=F64)
    for lam in (1e-3, 0.5, 10.0):
        moved = transport_tangent(logits, 30 * normal(3, 3), c.categorical.finite(logits), lam)
        assert bool(torch.isfinite(moved).all())


@pytest.mark.parametrize("name", ["exact_redge", "transport_redge"])
def test_noises_are_averaged(name):
    logits, x, noise = normal(6, 4).requires_grad_(), one_hot([0, 1, 2, 3, 0, 1], 4), normal(3, 6, 4, seed=1)
    surrogate, schedule = getattr(c, f"{name}_surrogate"), c.lambda_grid(4, 0.5)
    upstream = normal(6, 4, seed=2)
    together = surrogate(logits, noise=noise, x=x, schedule=schedule, second_order_weight=0.7)
    each = [surrogate(logits, noise=eps, x=x, schedule=schedule, second_order_weight=0.7) for eps in noise]
    assert torch.allclose(together, torch.stack(each).mean(0))
    wanted = torch.stack([gradient(one, logits, upstream) for one in each]).mean(0)
    assert torch.allclose(gradient(together, logits, upstream), wanted)


def test_gumbel_rao_with_the_noise_of_a_draw_is_gumbel_softmax():
    log_p = torch.log_softmax(normal(8, 5), -1)
    x = one_hot([0, 1, 2, 3, 4, 0, 1, 2], 5)
    perturbed = conditional_gumbel(log_p, x, normal(4, 8, 5, seed=1).exp())
    assert torch.equal(perturbed.argmax(-1), x.argmax(-1).expand(4, 8))


def test_gapped_straight_through_leads_by_the_gap():
    logits = normal(9, 5)
    x = one_hot(torch.arange(9) % 5, 5)
    x_soft = c.gapped_straight_through_surrogate(logits, x=x, gap=1.5)
    lead = (x_soft.log() * x).sum(-1) - (x_soft.log() - 1e9 * x).amax(-1)
    assert bool((lead >= 1.5 - 1e-9).all())


def test_baselines_give_the_gradient_of_their_formula():
    logits, x = normal(5, 4).requires_grad_(), one_hot(torch.arange(15).reshape(3, 5) % 4, 4)
    upstream, weight = normal(3, 5, 4, seed=1), 0.6
    surrogates = c.reinmax_surrogate(logits.expand(3, 5, 4), x=x)
    probs = torch.softmax(logits, -1)
    mixed = with_baselines(c.attach_gradient(x, surrogates), probs, weight, BatchAxes(1))
    assert torch.equal(mixed, x)
    found = gradient(mixed, logits, upstream)
    wanted = torch.zeros(5, 4, dtype=F64)
    for i in range(3):
        others = upstream[[j for j in range(3) if j != i]].mean(0)
        jacobian_part = gradient(c.reinmax_surrogate(logits, x=x[i]), logits, upstream[i] - weight * others)
        wanted = wanted + jacobian_part + weight * covariance_product(probs.detach(), others)
    assert torch.allclose(found, wanted)


def test_the_fitted_weight_minimises_the_variance_of_the_summed_gradient():
    # with g_j = constant + noise the best weight is that of regressing one gradient on the mean of the others
    count, noise_scale = 40_000, 0.5
    logits = normal(3).expand(count, 3)
    probs = torch.softmax(logits, -1)
    x = torch.stack([c.draw_one_hot(probs, torch.Generator().manual_seed(s)) for s in range(4)])
    upstream = normal(3, seed=8) + noise_scale * normal(4, count, 3, seed=9)
    others = leave_one_out(upstream)
    fitted = cross_fitted_weight(upstream, others, x, probs, 1)
    assert fitted.shape == (count, 1)

    def variance(weight):
        samples = x.clone()
        d = samples - probs
        jacobian = lambda u: (covariance_product(probs, u) + d * (d * u).sum(-1, keepdim=True)) / 2  # noqa: E731
        total = (jacobian(upstream - weight * others) + weight * covariance_product(probs, others)).sum(0)
        return total.var(0).sum().item()

    best = fitted.mean().item()
    assert 0 < best < 1
    assert variance(best) < min(variance(best - 0.2), variance(best + 0.2))


def test_second_order_averages_to_the_covariance():
    p = torch.softmax(normal(4), -1)
    u = normal(4, seed=1)
    for weight in (0.3, 1.0):
        mean = sum(p[k] * second_order(p, u, one_hot(k, 4), weight) for k in range(4))
        assert torch.allclose(mean, covariance_product(p, u))


def test_reindge_value_is_the_relaxed_sample():
    logits, noise, x = normal(6, 4), normal(6, 4, seed=1), one_hot([0, 1, 2, 3, 0, 1], 4)
    schedule = c.alpha_grid(3, 0.5)
    value = c.reindge_surrogate(logits, noise=noise, x=x, schedule=schedule)
    assert torch.equal(value, c.redge_surrogate(logits, noise=noise, schedule=schedule))


def test_schedules_understand_the_papers_grids_in_either_order():
    alphas = [1.0, 0.5, 0.25, 0.0]
    assert c.NoiseSchedule.from_alphas(alphas) == c.NoiseSchedule.from_alphas(alphas[::-1])
    assert c.NoiseSchedule.from_alphas(alphas).lambdas == (0.0, 1 / 3, 1.0)
    assert c.NoiseSchedule.from_alphas([0.0, 0.5], [1.0, 0.25]).lambdas == (0.0, 2.0)


@pytest.mark.parametrize(("grid", "num_steps"), list(itertools.product(["alpha", "lambda", "quadratic"], [1, 2, 5])))
def test_grids_end_at_t1_and_start_at_pure_noise(grid, num_steps):
    schedule = c.make_schedule(grid, num_steps, 0.2)
    assert schedule.num_steps == num_steps
    assert schedule.last == pytest.approx(4.0)
    assert num_steps == 1 or schedule.lambdas[0] == 0.0
