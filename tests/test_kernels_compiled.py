"""The compiled kernels against their naive twins: value and gradient, every method, layout, dtype and solver."""

import pytest
import torch

import catreparam
from catreparam.kernels.autograd import replayed
from catreparam.kernels.compiled import autograd as compiled
from catreparam.kernels.compiled import library
from catreparam.kernels.naive.sampling import naive_surrogate
from catreparam.noise_schedule import make_schedule
from methods import COMPILED, seeded, setting_for

pytestmark = pytest.mark.skipif(not library.BUILT, reason="the compiled kernels were not built (no C++ compiler)")

CLASSES = [1, 2, 3, 5, 16, 17, 32, 100, 130, 1000]  # pairs, side by side (whole and part vectors), along the row
SCHEDULES = [make_schedule("alpha", steps, 0.5).lambdas for steps in (1, 2, 4)] + [(0.1, 0.5, 0.5, 1.2)]
SETTINGS = [
    setting_for("straight_through"),
    setting_for("gumbel_softmax", temperature=0.7, hard=False),
    setting_for("gumbel_softmax", temperature=1.5),
    setting_for("reinmax"),
    setting_for("reinmax", temperature=1.3),
    setting_for("lambda_reinmax", weight=0.6),
    *(
        setting_for(method, lambdas, solver, hard=False, weight=float(method == "reindge"))
        for method in ("redge", "redge_cov", "reindge")
        for solver in ("euler", "ab2", "heun")
        for lambdas in SCHEDULES
    ),
    *(
        setting_for("exact_redge", lambdas, num_noises=noises, weight=weight)
        for noises, weight in ((1, 0.0), (2, 0.75), (3, 1.0))
        for lambdas in SCHEDULES
    ),
    setting_for("exact_redge", SCHEDULES[2], num_noises=2, hard=False),
]


def label(setting):
    return "-".join(str(value) for value in setting if not isinstance(value, tuple)) + f"-{len(setting.lambdas)}"


def problem(setting, classes, rows=37, dtype=torch.float32, seed=0):
    """Logits with some impossible classes, noise, a hard sample and an upstream gradient."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=generator)
    logits[:, 1:][torch.rand(rows, classes - 1, generator=generator) < 0.1] = -torch.inf
    x = torch.softmax(logits, -1).multinomial(1, generator=generator)[:, 0]
    x = torch.nn.functional.one_hot(x, classes).float()
    shape = (setting.num_noises, rows, classes) if setting.method.name == "exact_redge" else (rows, classes)
    noise = torch.randn(shape, generator=generator)
    upstream = torch.randn(rows, classes, generator=generator)
    return logits.to(dtype), noise, x, upstream.to(dtype)


def twin(setting, logits, noise, x, upstream):
    """Value and gradient of the naive twin in float64."""
    logits = logits.double().requires_grad_()
    surrogate = naive_surrogate(setting, logits, noise.double(), x.double())
    return surrogate.detach(), torch.autograd.grad(surrogate, logits, upstream.double())[0]


def expected_sample(setting, logits, noise, x, value):
    if setting.method.name == "gumbel_softmax" and setting.hard:
        return torch.nn.functional.one_hot((logits + noise).argmax(-1), logits.shape[-1]).double()
    return x.double() if setting.hard else value


@pytest.mark.parametrize("instructions", ["generic", "avx2", "avx512"])
@pytest.mark.parametrize("setting", SETTINGS, ids=label)
def test_value_and_gradient_equal_the_naive_twin(setting, instructions):
    if not library.choose_instruction_set(instructions):
        pytest.skip(f"this processor has no {instructions}")
    # Float32 rounding, which the covariance-matched chain amplifies by lambda / v, up to 10 a step.
    tolerance = 2e-4 if setting.method.name == "redge_cov" else 1e-5
    try:
        for classes in CLASSES:
            logits, noise, x, upstream = problem(setting, classes)
            value, gradient = twin(setting, logits, noise, x, upstream)
            sample, flags = library.forward(setting, logits, 0, noise, x)
            ours = library.backward(setting, logits, upstream, 0, noise, x)
            assert flags == 0
            torch.testing.assert_close(
                sample.double(), expected_sample(setting, logits, noise, x, value), atol=tolerance, rtol=0
            )
            torch.testing.assert_close(ours.double(), gradient, atol=tolerance, rtol=tolerance)
            assert (ours[logits == -torch.inf] == 0).all()
    finally:
        library.choose_instruction_set("")


@pytest.mark.parametrize("instructions", ["generic", "avx2", "avx512"])
@pytest.mark.parametrize("setting", SETTINGS, ids=label)
def test_a_kept_chain_gives_the_gradient_of_one_made_again(setting, instructions):
    if not library.choose_instruction_set(instructions):
        pytest.skip(f"this processor has no {instructions}")
    try:
        for classes in CLASSES:
            for rows, dtype in ((1, torch.float32), (75, torch.float32), (33, torch.bfloat16)):
                logits, noise, x, upstream = problem(setting, classes, rows=rows, dtype=dtype)
                room = library.room_to_keep(setting, logits)
                if room is None:
                    assert classes > 100 or (setting.method.name not in ("redge", "reindge") and classes != 2)
                    continue
                room.memory.fill_(torch.nan)
                for given in ((noise, x), (None, None)):
                    sample, _ = library.forward(setting, logits, 4, *given, kept=room)
                    assert torch.equal(sample, library.forward(setting, logits, 4, *given)[0])
                    kept = library.backward(setting, logits, upstream, 4, *given, kept=room)
                    again = library.backward(setting, logits, upstream, 4, *given)
                    torch.testing.assert_close(kept, again, atol=2e-6, rtol=1e-5)
    finally:
        library.choose_instruction_set("")


def test_memory_that_is_kept_is_bounded_and_used_again():
    setting = setting_for("redge", SCHEDULES[2])
    assert library.room_to_keep(setting, torch.empty(100_000, 10)) is None
    room = library.room_to_keep(setting, torch.empty(2000, 10))
    assert library.SMALL_ROOM < room.memory.numel() <= library.KEPT_BYTES / 4
    address = room.address
    del room
    assert library.room_to_keep(setting, torch.empty(2000, 10)).address == address


@pytest.mark.parametrize("classes", [2, 5])
def test_a_graph_kept_and_used_twice_gives_the_same_gradient_twice(classes):
    logits = torch.randn(20, classes, requires_grad=True)
    x = catreparam.redge(logits, generator=seeded())
    others = [catreparam.redge(logits, generator=seeded(1)) for _ in range(3)]  # do not disturb what x keeps
    upstream = torch.randn(20, classes)
    first, second = (torch.autograd.grad(x, logits, upstream, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert len(others) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", CLASSES)
def test_half_precision_differs_by_the_rounding_of_the_output_only(classes, dtype):
    for setting in SETTINGS:
        if setting.method.name == "redge_cov":
            continue
        logits, noise, x, upstream = problem(setting, classes, dtype=dtype)
        value, gradient = twin(setting, logits, noise, x, upstream)
        sample, _ = library.forward(setting, logits, 0, noise, x)
        ours = library.backward(setting, logits, upstream, 0, noise, x)
        assert sample.dtype == ours.dtype == dtype
        rounding = torch.finfo(dtype).eps
        if not (setting.method.name == "gumbel_softmax" and setting.hard):  # argmax of sums that halves round to ties
            wanted = expected_sample(setting, logits, noise, x, value)
            torch.testing.assert_close(sample.double(), wanted, atol=1e-5, rtol=rounding)
        torch.testing.assert_close(ours.double(), gradient, atol=2e-5, rtol=rounding)


@pytest.mark.parametrize("setting", SETTINGS, ids=label)
@pytest.mark.parametrize("classes", [2, 7, 40, 300])
def test_noise_from_the_seed_is_the_noise_replayed(setting, classes):
    logits, _, _, upstream = problem(setting, classes, rows=75)
    noise, x = replayed(compiled.PASSES, setting, logits, 11)
    if noise is None:
        noise = torch.zeros(75, classes)
    x = library.forward(setting._replace(hard=True), logits, 11)[0] if x is None else x
    value, gradient = twin(setting, logits, noise, x, upstream)
    sample, _ = library.forward(setting, logits, 11)
    ours = library.backward(setting, logits, upstream, 11)
    tolerance = 1e-3 if setting.method.name == "redge_cov" else 2e-5
    if not setting.hard:
        torch.testing.assert_close(sample.double(), value, atol=tolerance, rtol=0)
    else:
        assert (sample.sum(-1) == 1).all()
        assert ((sample == 0) | (sample == 1)).all()
    torch.testing.assert_close(ours.double(), gradient, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("classes", [2, 10, 300])
def test_results_do_not_depend_on_the_number_of_threads(classes):
    setting = setting_for("redge", SCHEDULES[2])
    logits = torch.randn(20_011, classes)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append((library.forward(setting, logits, 3)[0], library.backward(setting, logits, logits, 3)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(result, results[0], strict=True))


def test_results_do_not_depend_on_the_other_rows():
    for classes in (2, 10, 300):
        setting = setting_for("redge", SCHEDULES[2], hard=False)
        logits = torch.randn(100, classes)
        whole, part = library.forward(setting, logits, 3)[0], library.forward(setting, logits[:41].clone(), 3)[0]
        assert torch.equal(whole[:41], part)


def test_reseeding_repeats_and_a_second_call_differs():
    logits = torch.zeros(64, 5)
    generator = torch.Generator().manual_seed(4)
    first, second = (compiled.sample(setting_for("redge"), logits, generator=generator) for _ in range(2))
    again = compiled.sample(setting_for("redge"), logits, generator=generator.manual_seed(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("classes", [2, 3, 20, 300])
def test_impossible_classes_are_never_drawn(classes):
    logits = torch.full((5000, classes), -torch.inf)
    allowed = torch.randint(classes, (5000,))
    logits[torch.arange(5000), allowed] = 0.0
    for method in COMPILED:
        sample, flags = library.forward(setting_for(method, SCHEDULES[2]), logits, 5)
        assert flags == 0
        assert torch.equal(sample.argmax(-1), allowed)
        assert (sample.sum(-1) == 1).all()


@pytest.mark.parametrize("classes", [2, 3, 20, 300])
@pytest.mark.parametrize(("bad", "flag"), [(torch.nan, 1), (torch.inf, 2), (-torch.inf, 4)])
def test_invalid_rows_are_flagged_and_the_error_is_the_usual_one(classes, bad, flag):
    logits = torch.zeros(50, classes)
    logits[17] = bad
    for method in COMPILED:
        assert library.forward(setting_for(method, SCHEDULES[2]), logits, 0)[1] & flag
        library.backward(setting_for(method, SCHEDULES[2]), logits, logits, 0)  # reads and writes nothing outside
    with pytest.raises(ValueError, match="logits"):
        compiled.sample(setting_for("redge"), logits)


@pytest.mark.parametrize("scale", [1e4, 1e-40])
def test_large_and_subnormal_logits_are_safe(scale):
    for classes in (2, 3, 20, 300):
        logits = scale * torch.randn(200, classes)
        for method in COMPILED:
            setting = setting_for(method, SCHEDULES[2], hard=method == "exact_redge")
            sample, flags = library.forward(setting, logits, 0)
            assert flags == 0
            assert sample.isfinite().all()
            assert library.backward(setting, logits, torch.randn(200, classes), 0).isfinite().all()


def test_a_row_of_a_hundred_thousand_classes_and_many_steps_work():
    setting = setting_for("redge", make_schedule("alpha", 32, 0.5).lambdas)
    logits = torch.randn(2, 100_000, requires_grad=True)
    compiled.sample(setting, logits).pow(2).sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("setting", SETTINGS, ids=label)
def test_every_method_says_what_its_surrogate_takes(setting):
    logits, noise, x, _ = problem(setting, 4)
    naive_surrogate(setting, logits, noise if setting.method.needs_noise else None, x)
