"""The autograd node in C++ does what the Python one does, bit for bit, and is built, found and refused as it should."""

import gc
import re

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import catreparam
from catreparam.cli import main
from catreparam.kernels.compiled import autograd as compiled
from catreparam.kernels.compiled import library, node
from catreparam.noise_schedule import make_schedule
from methods import COMPILED, setting_for

needs_node = pytest.mark.skipif(
    compiled.sample_usual is compiled._sample_in_python, reason=node.UNAVAILABLE or "no compiled kernels"
)
SHAPES = [(200, 48, 2), (64, 100), (9, 7, 5), (70, 16, 32), (0, 3), (4, 1)]  # 70 x 16 x 32: a chain that is handed on


def draw(setting, logits, by_node, seed=3):
    """Sample, gradient, and what the generator gives next."""
    generator = torch.Generator().manual_seed(seed)
    logits = logits.detach().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        if not by_node:
            patch.setattr(compiled, "sample_usual", compiled._sample_in_python)
        x = compiled.sample(setting, logits, generator)
        (gradient,) = torch.autograd.grad(x, logits, torch.arange(x.numel()).view(x.shape).sin().to(x.dtype))
    return x.detach(), gradient, torch.rand(1, generator=generator)


@needs_node
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", COMPILED)
def test_sample_gradient_and_generator_are_the_python_nodes(method, shape):
    lambdas = make_schedule("alpha", 4, 0.5).lambdas
    setting = setting_for(method, lambdas, num_noises=2 if method == "exact_redge" else 1, weight=0.5)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for _ in range(2):  # the second time memory is handed on
            for ours, theirs in zip(
                draw(setting, logits.to(dtype), True), draw(setting, logits.to(dtype), False), strict=True
            ):
                assert torch.equal(ours, theirs)
                assert ours.dtype == theirs.dtype


@needs_node
def test_strided_logits_and_upstream_gradients():
    logits = torch.randn(5, 6, 8).transpose(0, 2)[::2]
    ours, theirs = (draw(setting_for("reinmax"), logits, by_node) for by_node in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    leaf = torch.randn(6, 4, requires_grad=True)
    catreparam.redge(leaf).sum().backward()  # an upstream gradient of stride 0
    torch.testing.assert_close(leaf.grad, torch.zeros(6, 4), atol=1e-6, rtol=0)


@needs_node
def test_without_a_gradient_there_is_no_node():
    logits = torch.randn(3, 4)
    assert catreparam.redge(logits).grad_fn is None
    logits.requires_grad_()
    with torch.no_grad():
        assert not catreparam.redge(logits).requires_grad
    with torch.inference_mode():
        assert catreparam.redge(logits).is_inference()
    assert catreparam.redge(logits).grad_fn.name() == "CategoricalSampleBackward"


@needs_node
def test_second_derivatives_are_the_python_nodes():
    results = []
    for by_node in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not by_node:
                patch.setattr(compiled, "sample_usual", compiled._sample_in_python)
            logits = torch.linspace(-1, 1, 12).view(3, 4).requires_grad_()
            x = catreparam.reinmax(logits, generator=torch.Generator().manual_seed(0))
            (gradient,) = torch.autograd.grad((x * torch.arange(4.0)).sum(), logits, create_graph=True)
            results.append(torch.autograd.grad(gradient.pow(2).sum(), logits)[0])
    assert torch.equal(*results)
    assert results[0].abs().sum() > 0


@needs_node
def test_a_graph_is_used_once_unless_it_is_retained():
    logits = torch.randn(200, 16, requires_grad=True)
    x = catreparam.redge(logits)
    first, second = (torch.autograd.grad(x[:, 0].sum(), logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    x.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        x.sum().backward()


@needs_node
def test_logits_changed_in_place_are_noticed():
    leaf = torch.randn(3, 4, requires_grad=True)
    logits = leaf * 1.0
    x = catreparam.redge(logits)
    with torch.no_grad():
        logits.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x.sum().backward()


@needs_node
def test_a_checkpointed_block_gives_the_gradient_of_a_plain_one():
    weight = torch.arange(5.0)

    def block(logits):
        return (catreparam.redge(logits * 2.0) * weight).sum()

    gradients = []
    for call in (block, lambda logits: checkpoint(block, logits, use_reentrant=False)):
        logits = torch.linspace(-1, 1, 20).view(4, 5).requires_grad_()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            call(logits).backward()
        gradients.append(logits.grad)
    assert torch.equal(*gradients)


@needs_node
@pytest.mark.parametrize(("bad", "message"), [(torch.nan, "1 NaN"), (torch.inf, r"\+inf"), (-torch.inf, "no class")])
def test_invalid_rows_raise_the_usual_errors(bad, message):
    with pytest.raises(ValueError, match=message):
        catreparam.redge(torch.full((1, 1), bad).requires_grad_())


@needs_node
def test_a_node_keeps_its_job_and_nothing_else_alive():
    logits = torch.randn(3, 4, requires_grad=True)
    x = catreparam.redge(logits, num_steps=7)
    library.job_of.cache_clear()
    x.sum().backward()  # the job lives as long as the node
    before = len(gc.get_objects())
    for _ in range(200):
        catreparam.redge(logits, num_steps=7).sum().backward()
    gc.collect()
    assert len(gc.get_objects()) < before + 100


@needs_node
def test_a_call_of_the_wrong_kind_is_an_error_not_a_crash():
    with pytest.raises(TypeError, match="takes a setting"):
        node.MODULE.sample(0)
    with pytest.raises(AttributeError, match="method"):
        node.MODULE.sample("no setting", torch.zeros(2, 3), None)


def test_without_a_compiler_the_command_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(library, "BUILT", True)
    monkeypatch.setattr(node, "find_compiler", list)
    assert main(["build"]) == 2
    assert "set CXX" in capsys.readouterr().err


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(node, "SOURCE", tmp_path / "node.cpp")
    monkeypatch.setattr(node, "FILE", tmp_path / "_node.so")
    if not node.find_compiler():
        pytest.skip("no compiler here")
    (tmp_path / "node.cpp").write_text("int broken(")
    with pytest.raises(OSError, match=r"could not compile the autograd node against torch .* error"):
        node.build()
    assert [path.name for path in tmp_path.iterdir()] == ["node.cpp"]


def test_a_file_that_is_no_module_is_refused_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(node, "FILE", tmp_path / "_node.so")
    assert "not built" in node._load()[1]
    (tmp_path / "_node.so").write_bytes(b"nothing")
    module, why = node._load()
    assert module is None
    assert re.search("cannot be loaded .*catreparam build", why)


def test_a_node_of_another_interface_or_torch_has_another_name():
    assert node.FILE.name.startswith(f"_node{library.VERSION}.{node.BEHAVIOUR}-torch{torch.__version__}-")
