"""Code that torch runs other than eagerly: modules, distributions and wrappers; the estimators: test_transforms.py.

What is recorded gives eager code's numbers at the same random state, so that its law is eager code's.
"""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from catreparam import ESTIMATORS, expectation, make_estimator
from catreparam.distributions import ReparameterizedBernoulli, ReparameterizedCategorical
from catreparam.kernels import dispatch
from catreparam.kernels.compiled import autograd as compiled_path
from catreparam.kernels.compiled import library
from catreparam.nn import (
    CategoricalBottleneck,
    GumbelVectorQuantizer,
    TopKRouter,
    VectorQuantizer,
    Wav2Vec2GumbelVectorQuantizer,
)
from catreparam.schedules import LinearSchedule, ScheduledEstimator
from catreparam.validation import set_validation
from methods import ALL, REPARAMETERISED, loss_of, seeded, setting_for

pytestmark = pytest.mark.filterwarnings("ignore::Warning")  # torch's own: tracing looks at shapes, exporters are old
LOGITS = torch.randn(6, 4, generator=seeded(3))
WEIGHTS = (1.0, 2.0, -1.0, 0.5)
CONFIG = SimpleNamespace(
    num_codevector_groups=1, num_codevectors_per_group=4, codevector_dim=4, conv_dim=(4,), hidden_size=4
)


def weigh(x):
    return sum(weight * x[..., index] for index, weight in enumerate(WEIGHTS))


MODULES = {
    "bottleneck": lambda: CategoricalBottleneck(4, embedding_dim=4, generator=seeded()),
    "argmax": lambda: CategoricalBottleneck(4, train_mode="argmax", embedding_dim=4, generator=seeded()),
    "codebook": lambda: VectorQuantizer(4, num_codes=4, generator=seeded()),
    "router": lambda: TopKRouter(4, num_experts=4, k=2, jitter=0.1, capacity_factor=2.0),
    "fairseq": lambda: GumbelVectorQuantizer(4, num_vars=4, groups=1, vq_dim=4),
    "hugging face": lambda: Wav2Vec2GumbelVectorQuantizer(CONFIG),
}
CALLS = {
    "bottleneck": lambda module, x: module(x),
    "argmax": lambda module, x: module(x),
    "codebook": lambda module, x: module(x).quantized,
    "router": lambda module, x: module(x).weights,
    "fairseq": lambda module, x: module(x.unsqueeze(0))["x"].squeeze(0),
    "hugging face": lambda module, x: module(x.unsqueeze(0))[0].squeeze(0),
}


class Called(torch.nn.Module):
    """x [6, 4] -> [6, 4] by a module, whose parameters a tracer finds here."""

    def __init__(self, name):
        super().__init__()
        self.module, self.call = MODULES[name](), CALLS[name]

    def forward(self, x):
        return self.call(self.module, x)


WRAPPERS = {
    "partial": partial(ESTIMATORS["redge"], t1=0.7),
    "made": make_estimator("gumbel_softmax", temperature=0.7),
    "scheduled": ScheduledEstimator("redge", t1=LinearSchedule(0.9, 0.3, num_steps=3)),
    "relaxed": partial(ESTIMATORS["redge"], hard=False),
    "mask": partial(ESTIMATORS["exact_redge"], mask=torch.tensor([True, False, True, True])),
    "dim": lambda logits: ESTIMATORS["reinmax"](logits.movedim(-1, 0), dim=0).movedim(0, -1),
    "several samples": lambda logits: expectation(weigh, logits, estimator="reinmax", num_samples=3, baseline_weight=0),
    "categorical": lambda logits: ReparameterizedCategorical(logits=logits).rsample((2,)).sum(0),
    "probs": lambda logits: ReparameterizedCategorical(probs=logits.softmax(-1), estimator="redge").rsample(),
    "log_prob": lambda logits: (law := ReparameterizedCategorical(logits=logits)).log_prob(law.rsample()),
    "unimix": lambda logits: (q := ReparameterizedCategorical(logits=logits, unimix=0.1)).rsample() + q.mode,
    "bernoulli": lambda logits: ReparameterizedBernoulli(logits=logits, validate_args=True).rsample(),
}


def seeded_run(run, logits):
    """The value and gradient of run(logits) [*any], with the global random state at 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        leaf = logits.clone().requires_grad_()
        value = run(leaf)
        upstream = torch.arange(value.numel(), dtype=value.dtype).reshape(value.shape)
        return value.detach(), torch.autograd.grad((value * upstream).sum(), leaf, materialize_grads=True)[0]


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def eager_path(path):
    """The compiled path draws as the operators of make_fx do; without it both take the naive path."""
    return dispatch.using(path if library.BUILT else "naive")


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("recorder", ["jit.trace", "make_fx"])
def test_recorded_wrappers_and_distributions_give_eager_codes_numbers(name, recorder):
    run, path = WRAPPERS[name], "naive" if recorder == "jit.trace" else ""
    with eager_path(path):
        wanted = seeded_run(run, LOGITS)
    example = torch.zeros_like(LOGITS).requires_grad_()
    named = run if hasattr(run, "__name__") else lambda logits: run(logits)  # torch traces no nameless partial
    recorded = torch.jit.trace(named, example, check_trace=False) if path else make_fx(run)(example)
    assert_same(seeded_run(recorded, LOGITS), wanted)
    values = [recorded(LOGITS) for _ in range(30)]  # some other draw among them but once in 1e10
    assert not all(torch.equal(values[0], value) for value in values)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("training", [True, False])
def test_traced_modules_give_eager_codes_numbers(name, training):
    run = Called(name).train(training)
    traced = torch.jit.trace(run, torch.zeros_like(LOGITS), check_trace=False)
    with dispatch.using("naive"):
        wanted = seeded_run(run, LOGITS)
    assert_same(seeded_run(traced, LOGITS), wanted)


@pytest.mark.parametrize("name", MODULES)
def test_modules_made_on_the_meta_device_and_called_there_keep_shapes(name):
    for mode, device in ((torch.device("meta"), "meta"), (FakeTensorMode(), "cpu")):
        with mode:
            x = CALLS[name](MODULES[name](), torch.zeros(6, 4, requires_grad=True))
            x.sum().backward()
        assert (x.shape, x.device.type) == ((6, 4), device)


@pytest.mark.parametrize("name", MODULES)
def test_modules_in_inference_mode_give_the_values_of_no_grad_and_train_afterwards(name):
    module, twin = MODULES[name](), MODULES[name]()
    twin.load_state_dict(module.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with torch.inference_mode():
            found = CALLS[name](module, LOGITS).clone()
        torch.manual_seed(0)
        with torch.no_grad():
            assert torch.equal(found.clone(), CALLS[name](twin, LOGITS))
    CALLS[name](module, LOGITS.clone().requires_grad_()).sum().backward()


@pytest.mark.parametrize("law", [ReparameterizedCategorical, ReparameterizedBernoulli])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_distributions_without_values_keep_shapes(law, device):
    with FakeTensorMode() if device == "cpu" else torch.device("meta"):
        for parameters in ({"logits": torch.zeros(3, 4)}, {"probs": torch.full((3, 4), 0.25)}):
            q = law(**parameters, validate_args=True, temperature=torch.ones(q_shape(law)), generator=torch.Generator())
            assert q.sample((2,)).shape == (2, 3, 4)
            assert q.log_prob(q.sample()).shape == q.batch_shape
            assert q.entropy().device.type == device
            assert q.has_rsample


def q_shape(law):
    return (3,) if law is ReparameterizedCategorical else (3, 4)


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("name", ALL)
def test_estimators_are_made_under_any_default_device_and_in_any_recorder(name, device):
    with torch.device(device):
        estimator = make_estimator(name)
    with FakeTensorMode():
        make_estimator(name)
    with torch.device("meta"):  # logits say where the draw is made
        loss_of(estimator, LOGITS.clone().requires_grad_()).sum().backward()

    def run(x):
        make_estimator(name)  # the trial that it makes is no part of the program
        return 2 * x

    assert "exponential" not in str(torch.jit.trace(run, LOGITS).graph)
    assert [node.op for node in make_fx(run)(LOGITS).graph.nodes] == ["placeholder", "call_function", "output"]


@pytest.mark.skipif(not library.BUILT, reason="the kernels were not built")
@pytest.mark.parametrize("name", ["redge", "exact_redge"])
def test_default_device_and_dtype_change_nothing_in_the_kernels(name):
    """The twin in Python, with a chain that is kept and one that is made again, and second derivatives."""
    setting = setting_for(name, (0.0, 0.5, 1.0))
    for size in (6, 40_000):
        logits = torch.randn(size, 4, generator=seeded(), requires_grad=True)
        results = []
        for device, dtype in (("cpu", torch.float32), ("meta", torch.float32), ("cpu", torch.float64)):
            torch.set_default_dtype(dtype)
            try:
                with torch.device(device):
                    x = compiled_path._sample_in_python(setting, logits, seeded())
                    (first,) = torch.autograd.grad((x**2).sum(), logits, create_graph=True)
                    results.append((x, first, *torch.autograd.grad(first.square().sum(), logits)))
            finally:
                torch.set_default_dtype(torch.float32)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
def test_nested_logits_are_one_message(name, layout):
    logits = torch.nested.nested_tensor([LOGITS[:2], LOGITS[2:5]], layout=layout)
    with pytest.raises(TypeError, match="got a nested one; pass its rows"):
        loss_of(name, logits)
    if name in REPARAMETERISED:
        with pytest.raises(TypeError, match="got a nested one; pass its rows"):
            ESTIMATORS[name](logits)
        assert loss_of(name, torch.cat(logits.unbind())).shape == (5,)


@pytest.mark.parametrize("name", ALL)
def test_torch_jit_script_says_what_to_do_instead(name):
    estimator, made = ESTIMATORS[name], make_estimator(name)

    def calls_it(x: torch.Tensor):
        return estimator(x)

    for code in (estimator, made, calls_it):
        with pytest.raises(TypeError, match=r"cannot compile catreparam; use torch\.jit\.trace"):
            torch.jit.script(code)


@pytest.mark.parametrize("name", MODULES)
def test_torch_jit_script_of_a_module_says_what_to_do_instead(name):
    for code in (MODULES[name](), torch.nn.Sequential(MODULES[name]())):
        with pytest.raises(TypeError, match="cannot compile catreparam"):
            torch.jit.script(code)


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_fake_logits_without_their_mode_are_one_message(name):
    logits = FakeTensorMode().from_tensor(LOGITS)
    with pytest.raises(ValueError, match="call inside `with fake_mode:`"):
        ESTIMATORS[name](logits)


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_make_fx_records_a_generator_with_real_tensors_and_refuses_it_with_fake_ones(name):
    generator = seeded()

    def run(logits):
        return ESTIMATORS[name](logits, generator=generator)

    recorded = make_fx(run)(LOGITS)
    wanted = [ESTIMATORS[name](LOGITS, generator=again) for again in [seeded(5)] for _ in range(2)]
    with eager_path(""):
        generator.manual_seed(5)
        wanted = [run(LOGITS) for _ in range(2)]
    generator.manual_seed(5)
    assert all(torch.equal(recorded(LOGITS), x) for x in wanted)
    with pytest.raises(ValueError, match=r"leave it out and use torch\.manual_seed"):
        make_fx(run, tracing_mode="fake")(LOGITS)


def test_bad_values_are_found_on_the_meta_device_by_nobody_and_recorded_by_nobody():
    bad = torch.full((2, 3), torch.nan)
    set_validation(True)
    assert ESTIMATORS["redge"](bad.to("meta")).shape == (2, 3)
    recorded = torch.jit.trace(lambda x: ESTIMATORS["redge"](x, mask=torch.ones(3, dtype=torch.bool)), LOGITS[:, :3])
    assert "isfinite" not in str(recorded.graph)


@pytest.mark.parametrize("name", ["rebar", "relax", "unbiased_redge"])
def test_methods_that_differentiate_inside_are_traced_without_gradients(name):
    def run(logits):
        return loss_of(make_estimator(name), logits, objective=weigh)

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        traced = torch.jit.trace(run, LOGITS[:4], check_trace=False)
        found = [(torch.manual_seed(0), call(LOGITS))[1] for call in (traced, run)]
    assert torch.equal(*found)
