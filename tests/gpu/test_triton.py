"""The Triton kernels against their naive twins: compiled on a GPU, else in Triton's interpreter on CPU tensors.

The interpreter has to be chosen before triton is imported: `tests/test_kernels_triton.py` starts this file that way.
"""

import os

import pytest
import torch

import catreparam
from catreparam.kernels import dispatch, ops
from catreparam.kernels.autograd import attach, replayed
from catreparam.kernels.naive.sampling import naive_surrogate
from catreparam.kernels.triton import autograd as triton_autograd
from catreparam.kernels.triton import launch as triton_launch
from catreparam.noise_schedule import make_schedule
from methods import COMPILED, setting_for
from test_kernels_compiled import expected_sample, label, problem, twin

ON_GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    pytest.mark.skipif(not (ON_GPU or INTERPRETED), reason="no CUDA device, and TRITON_INTERPRET=1 is not set"),
    pytest.mark.skipif(bool(triton_launch.UNAVAILABLE), reason=triton_launch.UNAVAILABLE or "triton is there"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # the interpreter's integers overflow, as Philox's should
]

DEVICE = "cuda" if ON_GPU else "cpu"
CLASSES = [2, 3, 7, 16, 33, 128, 300]
THREE, FOUR, UNEVEN = (*(make_schedule("alpha", steps, 0.5).lambdas for steps in (3, 4)), (0.1, 0.5, 0.5, 1.2))
SETTINGS = [
    setting_for("straight_through"),
    setting_for("gumbel_softmax", temperature=0.7, hard=False),
    setting_for("gumbel_softmax", temperature=1.5),
    setting_for("reinmax"),
    setting_for("reinmax", temperature=1.3),
    setting_for("lambda_reinmax", weight=0.6),
    *(
        setting_for(method, lambdas, solver, hard=method == "reindge", weight=float(method == "reindge"))
        for method in ("redge", "redge_cov", "reindge")
        for solver, lambdas in (("euler", THREE), ("ab2", UNEVEN), ("heun", THREE))
    ),
    setting_for("redge", (0.0,), hard=False),
    setting_for("redge", FOUR, "ab2"),
    setting_for("exact_redge", FOUR),
    setting_for("exact_redge", UNEVEN, num_noises=3, weight=0.75),
    setting_for("exact_redge", THREE, num_noises=2, hard=False),
]


def seed_of(number):
    return torch.tensor(number, device=DEVICE)


def on_device(*tensors):
    return [tensor.to(DEVICE) for tensor in tensors]


@pytest.mark.parametrize("number", range(len(SETTINGS)), ids=lambda number: label(SETTINGS[number]))
def test_value_and_gradient_equal_the_naive_twin(number):
    setting = SETTINGS[number]
    # Float32 rounding, which the covariance-matched chain amplifies by lambda / v, up to 10 a step.
    tolerance = 2e-4 if setting.method.name == "redge_cov" else 1e-5
    for classes in CLASSES if ON_GPU else [CLASSES[(number + i) % len(CLASSES)] for i in (0, 2, 5)]:
        logits, noise, x, upstream = problem(setting, classes, rows=7)
        value, gradient = twin(setting, logits, noise, x, upstream)
        wanted = expected_sample(setting, logits, noise, x, value)
        impossible = logits == -torch.inf
        logits, noise, x, upstream = on_device(logits, noise, x, upstream)
        sample = triton_launch.forward(setting, logits, seed_of(0), noise, x)
        ours = triton_launch.backward(setting, logits, upstream, seed_of(0), noise, x).cpu()
        torch.testing.assert_close(sample.cpu().double(), wanted, atol=tolerance, rtol=0)
        torch.testing.assert_close(ours.double(), gradient, atol=tolerance, rtol=tolerance)
        assert (ours[impossible] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("setting", [SETTINGS[i] for i in (0, 1, 4, 5, 6, 10, 12, 18)], ids=label)
def test_half_precision_differs_by_the_rounding_of_the_output_only(setting, dtype):
    logits, noise, x, upstream = problem(setting, 7, rows=7, dtype=dtype)
    value, gradient = twin(setting, logits, noise, x, upstream)
    wanted = expected_sample(setting, logits, noise, x, value)
    logits, noise, x, upstream = on_device(logits, noise, x, upstream)
    sample = triton_launch.forward(setting, logits, seed_of(0), noise, x)
    ours = triton_launch.backward(setting, logits, upstream, seed_of(0), noise, x)
    assert sample.dtype == ours.dtype == dtype
    inner = 2e-4 if setting.method.name == "redge_cov" else 2e-5
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(sample.cpu().double(), wanted, atol=inner, rtol=rounding)
    torch.testing.assert_close(ours.cpu().double(), gradient, atol=inner, rtol=rounding)


@pytest.mark.parametrize("setting", [SETTINGS[i] for i in (1, 3, 6, 9, 14, 18)], ids=label)
def test_noise_from_the_seed_is_the_noise_replayed(setting):
    logits, upstream = on_device(*problem(setting, 5, rows=9)[::3])
    noise, x = replayed(triton_autograd.PASSES, setting, logits, seed_of(11))
    sample = triton_launch.forward(setting, logits, seed_of(11))
    ours = triton_launch.backward(setting, logits, upstream, seed_of(11))
    again = triton_launch.forward(setting, logits, seed_of(11), noise, x)
    torch.testing.assert_close(sample, again, atol=1e-5, rtol=0)
    if noise is None:
        noise = torch.zeros_like(logits)
    value, gradient = twin(setting, logits, noise, torch.zeros_like(logits) if x is None else x, upstream)
    tolerance = 1e-3 if setting.method.name == "redge_cov" else 2e-5
    torch.testing.assert_close(ours.double(), gradient, atol=tolerance, rtol=tolerance)
    if setting.hard:
        assert (sample.sum(-1) == 1).all()
        assert ((sample == 0) | (sample == 1)).all()
    else:
        torch.testing.assert_close(sample.double(), value, atol=tolerance, rtol=0)


def test_reseeding_repeats_and_a_second_call_differs():
    logits, generator = torch.zeros(64, 5, device=DEVICE), torch.Generator(DEVICE).manual_seed(4)
    first, second = (triton_autograd.sample(setting_for("redge"), logits, generator=generator) for _ in range(2))
    again = triton_autograd.sample(setting_for("redge"), logits, generator=generator.manual_seed(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_results_do_not_depend_on_the_other_rows():
    setting, logits = setting_for("redge", THREE, hard=False), torch.randn(300, 5, device=DEVICE)
    whole, part = (triton_launch.forward(setting, rows, seed_of(3)) for rows in (logits, logits[:41]))
    assert torch.equal(whole[:41], part)


def test_impossible_classes_are_never_drawn():
    logits = torch.full((200, 6), -torch.inf)
    allowed = torch.arange(200) % 6
    logits[torch.arange(200), allowed] = 0.0
    for method in COMPILED:
        sample = triton_launch.forward(setting_for(method, THREE), logits.to(DEVICE), seed_of(5))
        assert torch.equal(sample.argmax(-1).cpu(), allowed)
        assert (sample.sum(-1) == 1).all()


@pytest.mark.parametrize("scale", [1e4, 1e-40])
def test_large_and_subnormal_logits_are_safe(scale):
    logits, upstream = (scale * torch.randn(50, 5)).to(DEVICE), torch.randn(50, 5, device=DEVICE)
    for setting in (SETTINGS[1], SETTINGS[4], SETTINGS[6], SETTINGS[9], SETTINGS[18]):
        sample = triton_launch.forward(setting, logits, seed_of(0))
        assert sample.isfinite().all()
        assert triton_launch.backward(setting, logits, upstream, seed_of(0)).isfinite().all()


def test_one_class_and_no_rows_are_legal():
    certain = torch.randn(4, 1, device=DEVICE)
    assert torch.equal(triton_launch.forward(SETTINGS[6], certain, seed_of(0)), torch.ones_like(certain))
    assert torch.equal(triton_launch.backward(SETTINGS[6], certain, certain, seed_of(0)), torch.zeros_like(certain))
    empty = torch.empty(0, 4, device=DEVICE)
    assert triton_launch.forward(SETTINGS[6], empty, seed_of(0)).shape == (0, 4)
    assert triton_launch.backward(SETTINGS[6], empty, empty, seed_of(0)).shape == (0, 4)


def test_second_derivatives_are_the_naive_twins():
    for setting in (SETTINGS[1], setting_for("reindge", THREE, weight=1.0)):
        logits = torch.randn(4, 6, device=DEVICE, requires_grad=True)
        upstream = torch.randn(4, 6, device=DEVICE, requires_grad=True)
        noise, x = torch.randn(4, 6, device=DEVICE), torch.eye(6, device=DEVICE)[:4].contiguous()
        sample = attach(triton_autograd.PASSES, setting, logits, seed_of(0), noise, x)
        gradient = torch.autograd.grad(sample, logits, upstream, create_graph=True)[0]
        wanted = torch.autograd.grad(naive_surrogate(setting, logits, noise, x), logits, upstream, create_graph=True)[0]
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-5)
        seconds = [torch.autograd.grad(g.pow(2).sum(), (logits, upstream)) for g in (gradient, wanted)]
        for a, b in zip(*seconds, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_estimators_take_the_kernels_and_give_back_their_layout(monkeypatch):
    if not ON_GPU:
        monkeypatch.setattr(dispatch, "choose_path", lambda setting, logits, dim: "triton")
        monkeypatch.setattr(dispatch, "USUAL", ())
    logits = torch.zeros(3, 4, 5, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    mask = (torch.arange(4, device=DEVICE) != 2)[:, None]
    x = catreparam.exact_redge(logits, dim=1, mask=mask, num_noises=2)
    x.float().cumsum(1).pow(2).sum().backward()
    assert (x.shape, x.dtype) == (logits.shape, logits.dtype)
    assert (x.sum(1) == 1).all()
    assert (x[:, 2] == 0).all()
    assert (logits.grad[:, 2] == 0).all()
    assert logits.grad.abs().sum() > 0


def test_the_custom_ops_are_these_kernels(monkeypatch):
    monkeypatch.setitem(ops.PASSES, DEVICE, triton_autograd.PASSES)
    setting = setting_for("reindge", THREE, weight=1.0)
    logits, upstream, seed = torch.randn(5, 4, device=DEVICE), torch.randn(5, 4, device=DEVICE), seed_of(2)
    x = ops.sample_op(logits, seed, *setting.flat())
    gradient = ops.backward_op(upstream, logits, seed, *setting.flat())
    noise, again = ops.replay_op(logits, seed, *setting.flat())
    assert torch.equal(x, again)
    wanted = twin(setting, logits, noise, x, upstream)[1]
    torch.testing.assert_close(gradient.double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "launch", [triton_launch.forward, lambda *given: triton_launch.backward(*given[:2], *given[1:])]
)
def test_a_rule_that_the_kernels_do_not_know_is_an_error(launch, monkeypatch):
    monkeypatch.setattr(triton_launch, "_name", lambda setting: "NEW")
    with pytest.raises(Exception, match="for this rule"):
        launch(setting_for("straight_through"), torch.zeros(2, 3, device=DEVICE), seed_of(0))


@pytest.mark.skipif(not ON_GPU, reason="torch.compile and vmap reach these kernels on CUDA tensors only")
def test_compile_vmap_and_grad_see_one_op():
    def draw(logits):
        return catreparam.redge(logits, num_steps=3)

    logits, weight = torch.randn(6, 5, device=DEVICE, requires_grad=True), torch.randn(6, 5, device=DEVICE)
    sample = torch.compile(draw, fullgraph=True, backend="aot_eager")(logits)
    (sample * weight).sum().backward()
    assert (sample.sum(-1) == 1).all()
    assert logits.grad.abs().sum() > 0
    batch = torch.randn(3, 6, 5, device=DEVICE)
    assert (torch.func.vmap(draw, randomness="different")(batch).sum(-1) == 1).all()
    gradient = torch.func.vmap(torch.func.grad(lambda at: (draw(at) * weight).sum()), randomness="different")(batch)
    assert gradient.abs().sum() > 0


@pytest.mark.statistical
@pytest.mark.parametrize("method", ["redge", "gumbel_softmax"])
def test_noise_follows_its_law(method):  # fails by chance at a rate of 1e-4: a fixed seed, so never or always
    stats = pytest.importorskip("scipy.stats")
    noise = triton_launch.replay(setting_for(method), torch.empty(300, 128, device=DEVICE), seed_of(1)).flatten().cpu()
    law = stats.norm if method == "redge" else stats.gumbel_r
    assert stats.kstest(noise.double().numpy(), law.cdf).pvalue > 1e-4
    assert abs(noise.mean().item() - law.mean()) < 4 * law.std() / len(noise) ** 0.5
    assert abs(noise.var().item() / law.var() - 1) < 0.05
    neighbours = torch.corrcoef(torch.stack([noise[:-1], noise[1:]]))[0, 1].item()
    assert abs(neighbours) < 4 / len(noise) ** 0.5


@pytest.mark.statistical
@pytest.mark.parametrize("method", ["straight_through", "gumbel_softmax"])
def test_the_hard_sample_follows_the_probabilities(method):  # fails by chance at a rate of 1e-4
    stats = pytest.importorskip("scipy.stats")
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = probs.log().expand(5000, 4).contiguous().to(DEVICE)
    counts = triton_launch.forward(setting_for(method), rows, seed_of(9)).sum(0).cpu()
    assert stats.chisquare(counts.numpy(), (5000 * probs).numpy()).pvalue > 1e-4


def test_exponentials_are_exact_from_word_zero_to_all_ones():
    words = torch.tensor([0, 1, 2, 1 << 19, (1 << 20) - 1, 1 << 20, 1 << 25, 1 << 31, (1 << 32) - 1])
    mores = torch.tensor([0, 1 << 31, (1 << 32) - 1])
    grid = torch.cartesian_prod(words, mores)
    signed = [column.where(column < 2**31, column - 2**32).int().contiguous().to(DEVICE) for column in grid.unbind(1)]
    out = torch.empty(len(grid), device=DEVICE)
    exponentials[(1,)](*signed, out, len(grid), SIZE=32)
    word, more = grid.double().unbind(1)
    fraction = torch.where(word < 2**20, (more + 0.5) / 2**32, 0.5)  # that of larger words would change no digit
    exact = (-torch.log1p(-(word + fraction) / 2**32)).clamp_max(16.635532)  # float32's last number below 1
    torch.testing.assert_close(out.cpu().double(), exact, rtol=2e-6, atol=0.0)


if not triton_launch.UNAVAILABLE:
    import triton
    import triton.language as tl

    from catreparam.kernels.triton.noise import exponential

    @triton.jit
    def exponentials(word_ptr, more_ptr, out_ptr, count, SIZE: tl.constexpr):
        place = tl.arange(0, SIZE)
        word = tl.load(word_ptr + place, mask=place < count, other=0).to(tl.uint32, bitcast=True)
        more = tl.load(more_ptr + place, mask=place < count, other=0).to(tl.uint32, bitcast=True)
        tl.store(out_ptr + place, exponential(word, more), mask=place < count)
