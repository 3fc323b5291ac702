"""The pure-torch fast path against the naive twins, value and gradient, and in every way autograd can be asked."""

import pytest
import torch
from scipy import stats

import catreparam
from catreparam.kernels import dispatch
from catreparam.kernels.naive.sampling import naive_surrogate
from catreparam.kernels.torch import autograd as fast
from catreparam.kernels.torch.layouts import choose_layout, draw_ticket
from catreparam.noise_schedule import make_schedule
from methods import ON_TORCH_PATH, seeded, setting_for

F64 = torch.float64
CLASSES = [1, 2, 3, 9, 16, 32, 33, 100, 1000]
SOLVERS = ["euler", "ab2", "heun"]
GRIDS = ["alpha", "lambda", "quadratic"]
MAYBE_SOFT = ("redge", "redge_cov", "exact_redge")
VALUED = [name for name in ON_TORCH_PATH if "reinmax" not in name]  # the surrogate's value means something
FAILURE_RATE = 1e-3  # of a whole statistical test


def setting_of(method, *, num_steps=4, t1=0.35, grid="alpha", solver="euler", **rest):
    lambdas = make_schedule(grid, num_steps, t1).lambdas
    weight = {"lambda_reinmax": 0.75, "exact_redge": 0.6, "reinmax": 1.0, "reindge": 1.0}.get(method, 0.0)
    return setting_for(method, lambdas, solver, **{"weight": weight, **rest})


def given(setting, *batch_and_classes, dtype=F64, seed=0):
    """Logits, noise, one-hot x and an upstream gradient, as the surrogates take them."""
    generator = seeded(seed)
    normal = lambda *shape: torch.randn(shape, generator=generator, dtype=F64).to(dtype)  # noqa: E731
    logits, upstream = (2 * normal(*batch_and_classes)).requires_grad_(), normal(*batch_and_classes)
    noise = normal(*((setting.num_noises,) if setting.num_noises > 1 else ()), *batch_and_classes)
    index = torch.randint(batch_and_classes[-1], batch_and_classes[:-1], generator=generator)
    x = torch.nn.functional.one_hot(index, batch_and_classes[-1]).to(dtype)
    return logits, noise if setting.method.needs_noise else None, x if setting.method.needs_sample else None, upstream


def check_parity(setting, logits, noise, x, upstream, tolerance):
    found, wanted = fast.surrogate(setting, logits, noise=noise, x=x), naive_surrogate(setting, logits, noise, x)
    gradients = [torch.autograd.grad((value * upstream).sum(), logits)[0] for value in (found, wanted)]
    assert found.is_contiguous()
    assert (found.dtype, found.shape) == (logits.dtype, logits.shape)
    if setting.method.name in VALUED:
        assert (found - wanted).abs().max() < tolerance
    scale = max(1.0, float(gradients[1].abs().max()))
    assert (gradients[0] - gradients[1]).abs().max() < tolerance * scale


@pytest.mark.parametrize("num_classes", CLASSES)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("method", ON_TORCH_PATH)
def test_value_and_gradient_equal_the_naive_twin(method, solver, num_classes):
    for grid in GRIDS:
        setting = setting_of(method, grid=grid, solver=solver)
        check_parity(setting, *given(setting, 2, 5, num_classes), tolerance=1e-9)
    check_parity(setting, *given(setting, 2, 5, num_classes, dtype=torch.float32), tolerance=2e-4)


@pytest.mark.parametrize("num_classes", CLASSES)
@pytest.mark.parametrize("num_noises", [1, 2, 5])
@pytest.mark.parametrize("weight", [0.0, 1.3])
def test_exact_law_averages_its_noises_like_the_naive_twin(num_classes, num_noises, weight):
    for num_steps, t1 in ((1, 0.5), (2, 0.35), (5, 0.35), (3, 1.0)):
        setting = setting_of("exact_redge", num_steps=num_steps, t1=t1, num_noises=num_noises, weight=weight)
        check_parity(setting, *given(setting, 3, 4, num_classes), tolerance=1e-9)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_reinmax_at_any_temperature_equals_the_naive_twin(temperature):
    for num_classes in CLASSES:
        setting = setting_of("reinmax", temperature=temperature)
        check_parity(setting, *given(setting, 7, num_classes), tolerance=1e-9)


@pytest.mark.parametrize("lambdas", [(0.7,), (0.5, 0.5, 1.2), (0.1, 0.3, 3.0, 30.0), (0.0,)])
@pytest.mark.parametrize("method", ["redge", "redge_cov", "reindge", "exact_redge"])
def test_unusual_schedules_equal_the_naive_twin(method, lambdas):
    for solver in SOLVERS:
        for num_classes in (2, 5, 40):
            setting = setting_for(method, lambdas, solver)
            check_parity(setting, *given(setting, 6, num_classes), tolerance=1e-8)


@pytest.mark.parametrize("num_classes", [2, 3, 20, 600])
@pytest.mark.parametrize("method", ON_TORCH_PATH)
def test_impossible_classes_equal_the_naive_twin_and_get_no_gradient(method, num_classes):
    setting = setting_of(method)
    logits, noise, x, upstream = given(setting, 40, num_classes)
    blocked = torch.zeros(40, num_classes, dtype=torch.bool)
    blocked[::2, 0] = True
    logits = logits.detach().masked_fill(blocked, -torch.inf).requires_grad_()
    if x is not None:
        x = torch.where(blocked.any(-1, keepdim=True), torch.eye(num_classes, dtype=F64)[-1], x)
    check_parity(setting, logits, noise, x, upstream, tolerance=1e-9)
    (gradient,) = torch.autograd.grad((fast.sample(setting, logits, generator=seeded()) * upstream).sum(), logits)
    assert bool((gradient[blocked] == 0).all())


@pytest.mark.parametrize("shape", [(40_000, 2), (70_000, 3), (9_000, 33), (300, 4_000), (5_000, 9)])
@pytest.mark.parametrize("method", ON_TORCH_PATH)
def test_rows_taken_in_pieces_give_what_all_at_once_give(method, shape, monkeypatch):
    setting = setting_of(method, num_noises=2 if method == "exact_redge" else 1)
    logits, noise, x, upstream = given(setting, *shape, dtype=torch.float32)
    results = []
    for serial, large, kept, parts in (
        (3_000, 20_000, 0, 4),
        (10**9, 10**9, 0, 4),
        (3_000, 20_000, 10**9, 4),
        (3_000, 20_000, 0, 1),
        (3_000, 20_000, 10**9, 1),
    ):
        monkeypatch.setattr(fast, "PARTS", parts)
        monkeypatch.setattr(fast, "SERIAL", serial)
        monkeypatch.setattr(fast, "LARGE", large)
        monkeypatch.setattr(fast, "KEPT", kept)
        value = fast.surrogate(setting, logits, noise=noise, x=x)
        results.append((value, *torch.autograd.grad((value * upstream).sum(), logits)))
        drawn = fast.sample(setting, logits, generator=seeded())
        results[-1] += (drawn, *torch.autograd.grad((drawn * upstream).sum(), logits))
    for other in results[1:]:
        for found, wanted in zip(other, results[0], strict=True):
            found, wanted = found.detach(), wanted.detach()
            assert (found - wanted).abs().max() < 1e-5 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("num_classes", [1, 2, 7, 50, 700])
@pytest.mark.parametrize(
    ("method", "hard"), [(method, True) for method in ON_TORCH_PATH] + [(method, False) for method in MAYBE_SOFT]
)
def test_a_draw_has_the_gradient_of_the_naive_twin_for_the_noise_and_sample_it_drew(method, num_classes, hard):
    setting = setting_of(method, t1=0.5, hard=hard, num_noises=3 if method == "exact_redge" else 1)
    logits, _, _, upstream = given(setting, 8, num_classes)
    drawn = fast.sample(setting, logits, generator=seeded(3))
    generator, layout, noise = seeded(3), choose_layout(num_classes), None
    averaged = setting.num_noises > 1
    if setting.method.needs_noise:
        noise = layout.draw_noise(logits.detach(), 2 if averaged else None, generator)
        noise = layout.by_class(noise, logits, averaged)
        noise = torch.cat((noise, -noise))[:3] if averaged else noise
    x = drawn.detach() if hard else fast.sample(setting_for("straight_through"), logits.detach(), generator=generator)
    wanted = naive_surrogate(setting, logits, noise, x)
    if not hard:
        assert torch.allclose(drawn, wanted)
    gradients = [torch.autograd.grad((value * upstream).sum(), logits)[0] for value in (drawn, wanted)]
    assert torch.allclose(*gradients, atol=1e-10)


@pytest.mark.parametrize("num_classes", [2, 5, 20])
@pytest.mark.parametrize("method", ON_TORCH_PATH)
def test_second_derivatives_are_the_naive_twins(method, num_classes):
    setting = setting_of(method, num_noises=2 if method == "exact_redge" else 1)
    logits, noise, x, upstream = given(setting, 4, num_classes)
    upstream.requires_grad_()
    seconds = []
    for value in (fast.surrogate(setting, logits, noise=noise, x=x), naive_surrogate(setting, logits, noise, x)):
        (gradient,) = torch.autograd.grad((value * upstream).sum(), logits, create_graph=True)
        inputs = (logits, upstream) if method not in ("reinmax", "lambda_reinmax") else (upstream,)
        seconds.append(torch.autograd.grad(gradient.square().sum(), inputs, allow_unused=True))
    for found, wanted in zip(*seconds, strict=True):
        wanted = torch.zeros_like(found) if wanted is None else wanted
        assert torch.allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize("num_classes", [2, 5, 20])
@pytest.mark.parametrize("method", ON_TORCH_PATH)
def test_function_transforms_equal_backward(method, num_classes):
    setting = setting_of(method, num_noises=2 if method == "exact_redge" else 1)
    logits, noise, x, upstream = given(setting, 6, 3, num_classes)

    def gradient(logits, noise, x, upstream):
        loss = lambda logits: (fast.surrogate(setting, logits, noise=noise, x=x) * upstream).sum()  # noqa: E731
        return torch.func.grad(loss)(logits)

    (wanted,) = torch.autograd.grad((fast.surrogate(setting, logits, noise=noise, x=x) * upstream).sum(), logits)
    arguments = (logits.detach(), noise, x, upstream)
    assert torch.allclose(gradient(*arguments), wanted)
    place = None if noise is None else int(setting.num_noises > 1)
    dims = (0, place, None if x is None else 0, 0)
    assert torch.allclose(torch.vmap(gradient, dims)(*arguments), wanted)
    nested = torch.func.grad(lambda logits: gradient(logits, noise, x, upstream).square().sum())(logits.detach())
    assert bool(torch.isfinite(nested).all())


@pytest.mark.parametrize("num_classes", [2, 5, 20])
@pytest.mark.parametrize("method", ON_TORCH_PATH)
def test_vmap_draws_every_row_by_itself(method, num_classes):
    setting = setting_of(method, num_noises=2 if method == "exact_redge" else 1)
    x = torch.vmap(lambda row: fast.sample(setting, row), randomness="different")(torch.zeros(100, 4, num_classes))
    assert bool((x.sum(-1) == 1).all())
    assert x.argmax(-1).unique().numel() > 1


@pytest.mark.parametrize("num_classes", [2, 5, 20])
@pytest.mark.parametrize("method", ON_TORCH_PATH)
def test_compile_takes_it_in_one_graph(method, num_classes):
    torch._dynamo.reset()
    setting = setting_of(method, num_noises=2 if method == "exact_redge" else 1)
    logits, noise, x, upstream = given(setting, 6, num_classes)
    call = lambda logits: fast.surrogate(setting, logits, noise=noise, x=x)  # noqa: E731
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    results = [
        (value, *torch.autograd.grad((value * upstream).sum(), logits)) for value in (call(logits), compiled(logits))
    ]
    for found, wanted in list(zip(*results, strict=True))[method not in VALUED :]:
        assert torch.allclose(found, wanted, atol=1e-9)
    torch._dynamo.reset()


@pytest.mark.parametrize("num_classes", [2, 5, 40])
@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("method", ON_TORCH_PATH)
def test_the_sample_may_be_changed_in_place_before_backward(method, hard, num_classes):
    setting = setting_of(method, hard=hard or method in ("straight_through", "reinmax", "lambda_reinmax", "reindge"))
    logits, _, _, upstream = given(setting, 6, num_classes)
    gradients = []
    for factor in (1.0, 0.0):
        x = fast.sample(setting, logits, generator=seeded())
        x.mul_(0.5).add_(factor)
        gradients += torch.autograd.grad((x * upstream).sum(), logits)
    assert torch.equal(*gradients)
    assert bool((gradients[0] != 0).any())


@pytest.mark.parametrize("num_classes", [2, 9, 40, 600])
def test_a_class_of_probability_zero_is_never_drawn_even_at_the_ends(num_classes):
    allowed = num_classes // 2
    probs = torch.zeros(4, num_classes)
    probs[:, allowed] = 0.25
    layout = choose_layout(num_classes)
    ticket = torch.tensor([0.0, 2**-24, 0.5, 1 - 2**-24], dtype=draw_ticket(probs, None).dtype)
    if num_classes == 2:
        probs *= 4
    x = torch.empty(4, num_classes)
    layout.draw(layout.law(layout.pack_sample(probs), lambda: layout.pack(probs.log())), ticket, x)
    assert x.argmax(-1).tolist() == [allowed] * 4


@pytest.mark.statistical
@pytest.mark.parametrize("num_classes", [2, 3, 16, 40, 700])
@pytest.mark.parametrize("method", ["straight_through", "exact_redge", "reinmax"])
def test_hard_draws_follow_softmax_of_the_logits(method, num_classes):
    # chance of failure were the draws not seeded: FAILURE_RATE over all cases
    logits = 1.5 * torch.randn(num_classes, generator=seeded(2))
    count = 200_000 if num_classes < 100 else 40_000
    x = fast.sample(setting_of(method), logits.expand(count, num_classes), generator=seeded(4))
    expected = count * torch.softmax(logits.double(), -1)
    counts = x.double().sum(0)
    order = expected.argsort()
    rare = int((expected[order].cumsum(0) < 20).sum()) + 1  # cells with few draws are taken together
    merge = lambda cells: torch.cat((cells[order[:rare]].sum(0, keepdim=True), cells[order[rare:]]))  # noqa: E731
    pvalue = stats.chisquare(merge(counts).numpy(), merge(expected).numpy()).pvalue
    assert pvalue > FAILURE_RATE / 15


@pytest.mark.parametrize("shape", [(40, 3), (20_000, 2), (20_000, 7)])  # summed at once, in parts, at once
@pytest.mark.parametrize(("bad", "message"), [(torch.nan, "NaN"), (torch.inf, "inf"), (-torch.inf, "no class")])
def test_invalid_rows_are_found_at_every_size(shape, bad, message):
    logits = torch.zeros(shape)
    logits[-1] = bad
    with dispatch.using("torch"), pytest.raises(ValueError, match=message):
        catreparam.redge(logits)


def test_impossible_classes_are_legal_at_every_size():
    logits = torch.zeros(20_000, 2)
    logits[:, 1] = -torch.inf
    with dispatch.using("torch"):
        assert bool((catreparam.redge(logits)[:, 0] == 1).all())
