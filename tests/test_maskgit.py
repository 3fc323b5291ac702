"""Halton-MaskGIT: parity with the official architecture, an independent twin for other sizes, and its checks."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from catreparam.models.initialise import initialise
from catreparam.models.maskgit import MaskGIT, MaskGITDenoiser, zero_gates
from catreparam.models.maskgit_config import MaskGITConfig
from official import maskgit_config

FIXTURES = Path(__file__).parent / "fixtures" / "maskgit"
OPTIONS = json.loads((FIXTURES / "tiny_configs.json").read_text())["transformer"]["patch1"]
OFFICIAL = json.loads((FIXTURES / "checkpoints.json").read_text())["ImageNet_384_large.pth"]


@pytest.fixture(scope="module")
def weights():
    return load_file(FIXTURES / "transformer_patch1.safetensors")


@pytest.fixture(scope="module")
def model(weights):
    model = MaskGIT(maskgit_config(OPTIONS))
    model.load_state_dict(weights)
    return model.eval()


def build(**sizes):
    """A model of random weights whose gates are open, so that every path counts."""
    with torch.device("meta"):
        model = MaskGIT(MaskGITConfig(**{**TINY, **sizes}))
    return initialise(model, torch.Generator().manual_seed(0)).double()


TINY = {"input_size": 4, "hidden_dim": 24, "codebook_size": 9, "depth": 2, "heads": 3, "ff_dim": 16, "nclass": 5}


def twin(tensors, tokens, labels, *, heads, register, proj):
    """The same function, written anew from the published description: plain tensors, no modules, no fused kernels."""

    def rms(x):
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()

    def silu(x):
        return x / (1 + (-x).exp())

    t = tensors
    b, h, w = tokens.shape
    condition = t["cls_emb.weight"][labels]
    x = t["tok_emb.weight"][tokens.reshape(b, -1)] + t["pos_emb.weight"][: h * w]
    if proj == 2:
        grid = x.reshape(b, h // 2, 2, w // 2, 2, -1)
        x = torch.einsum("bhiwjc,dcij->bhwd", grid, t["in_proj.weight"]).reshape(b, h * w // 4, -1)
    inside = x.shape[1]
    if register:
        x = torch.cat([x, t["reg_tokens.weight"].expand(b, *t["reg_tokens.weight"].shape)], 1)
    depth = sum(name.endswith("attn.wq.weight") for name in t)
    for i in range(depth):
        p = {name.split(f"layers.{i}.")[1]: v for name, v in t.items() if f"layers.{i}." in name}
        modulation = silu(condition) @ p["mlp.1.weight"].T + p["mlp.1.bias"]
        a1, b1, g1, a2, b2, g2 = modulation.reshape(b, 6, 1, -1).unbind(1)
        y = rms(x) * p["ln1.weight"] * (1 + b1) + a1
        q, k, v = rms(y @ p["attn.wq.weight"].T), rms(y @ p["attn.wk.weight"].T), y @ p["attn.wv.weight"].T
        size = q.shape[-1] // heads
        heads_out = []
        for j in range(heads):
            s = slice(j * size, (j + 1) * size)
            scores = torch.einsum("bic,bjc->bij", q[..., s], k[..., s]) / size**0.5
            heads_out.append(scores.softmax(-1) @ v[..., s])
        x = x + g1 * (torch.cat(heads_out, -1) @ p["attn.wo.weight"].T)
        y = rms(x) * p["ln2.weight"] * (1 + b2) + a2
        x = x + g2 * ((silu(y @ p["ff.w1.weight"].T) * (y @ p["ff.w3.weight"].T)) @ p["ff.w2.weight"].T)
    x = x[:, :inside]
    if proj == 2:
        x = x @ t["out_proj.weight"][:, :, 0, 0].T  # [b, h/2 * w/2, 4c], channel c * 4 + (row, column)
        x = x.reshape(b, h // 2, w // 2, -1, 2, 2).permute(0, 1, 4, 2, 5, 3).reshape(b, h * w, -1)
    shift, scale = (silu(condition) @ t["last_norm.mlp.1.weight"].T + t["last_norm.mlp.1.bias"]).chunk(2, -1)
    x = rms(x) * t["last_norm.norm_final.weight"] + t["last_norm.norm_final.bias"]
    x = x * (1 + scale[:, None]) + shift[:, None]
    return x @ t["head.weight"].T + t["head.bias"]


def test_logits_match_the_official_fixture(model):
    io = load_file(FIXTURES / "transformer_patch1_io.safetensors")
    with torch.no_grad():
        logits = model(io["codes"], io["labels"], io["drop_label"])
    torch.testing.assert_close(logits, io["logits"], atol=1e-4, rtol=0)


def test_flat_tokens_give_the_same_as_a_grid(model):
    io = load_file(FIXTURES / "transformer_patch1_io.safetensors")
    flat, grid = (model(codes, io["labels"]) for codes in (io["codes"].flatten(1), io["codes"]))
    assert torch.equal(flat, grid)


def test_official_large_model_has_every_name_and_shape():
    with torch.device("meta"):
        model = MaskGIT(maskgit_config(OFFICIAL["config"]))
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == OFFICIAL["tensors"]


def test_config_of_the_official_large_model_is_read_off_its_shapes():
    tensors = {name: torch.empty(shape, device="meta") for name, shape in OFFICIAL["tensors"].items()}
    assert MaskGITConfig.from_tensors(tensors) == maskgit_config(OFFICIAL["config"])


@pytest.mark.parametrize(
    "sizes",
    [{}, {"register": 0}, {"register": 3}, {"proj": 2}, {"proj": 2, "register": 0}, {"heads": 5}, {"depth": 1}],
    ids=[
        "plain",
        "no register",
        "three registers",
        "patches",
        "patches alone",
        "heads that do not divide",
        "one block",
    ],
)
@pytest.mark.parametrize("shape", [(4, 4), (2, 4)], ids=["full grid", "smaller grid"])
def test_other_sizes_match_the_independent_twin(sizes, shape):
    model = build(**sizes)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 10, (2, *shape), generator=generator)
    labels = torch.tensor([2, 5])  # 5 is the null label
    config = model.config
    expected = twin(model.state_dict(), tokens, labels, heads=config.heads, register=config.register, proj=config.proj)
    torch.testing.assert_close(model(tokens, labels), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("sizes", [{}, {"proj": 2}, {"register": 0}, {"heads": 5}, {"hidden_dim": 512, "heads": 6}])
def test_config_is_read_off_the_shapes(sizes):
    with torch.device("meta"):
        model = MaskGIT(MaskGITConfig(**{**TINY, **sizes}))
    heads = None if sizes.get("hidden_dim") == 512 else model.config.heads
    assert MaskGITConfig.from_tensors(model.state_dict(), heads=heads) == model.config


def test_gradients_of_the_weights_match_finite_differences():
    model = build(depth=1, hidden_dim=8, heads=2, ff_dim=4)
    tokens = torch.randint(0, 10, (1, 2, 2), generator=torch.Generator().manual_seed(2))

    def logits(embedding):
        return torch.func.functional_call(model, {"cls_emb.weight": embedding}, (tokens, torch.tensor([1])))

    assert torch.autograd.gradcheck(logits, model.cls_emb.weight.detach().requires_grad_())


def test_null_label_stands_in_for_no_label_and_for_dropped_ones(model):
    tokens = torch.zeros(2, 4, 4, dtype=torch.long)
    null = torch.full((2,), OPTIONS["nclass"])
    dropped = model(tokens, torch.tensor([1, 2]), torch.tensor([True, True]))
    assert torch.equal(model(tokens), model(tokens, null))
    assert torch.equal(model(tokens), dropped)
    assert not torch.equal(model(tokens), model(tokens, torch.tensor([1, 2])))


def test_denoiser_leaves_the_mask_out(model):
    denoiser = MaskGITDenoiser(model)
    tokens = torch.full((2, 16), denoiser.mask_token)
    logits = denoiser(tokens, labels=3)
    assert logits.shape == (2, 16, OPTIONS["codebook_size"])
    assert torch.equal(logits, model(tokens, torch.tensor([3, 3]))[..., :-1])


def test_zero_gates_make_every_block_the_identity():
    model = build()
    zero_gates(model)
    x = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(model.transformer(x, x[:, 0]), x)


@pytest.mark.parametrize(
    ("tokens", "labels", "message"),
    [
        (torch.full((1, 4, 4), 33), None, r"tokens must lie in \[0, 32\].*got 33"),
        (torch.full((1, 4, 4), -1), None, r"tokens must lie in \[0, 32\].*got -1"),
        (torch.zeros(1, 5, 4, dtype=torch.long), None, "more than the model's positions"),
        (torch.zeros(1, 15, dtype=torch.long), None, "square grid"),
        (torch.zeros(1, 4, 4, dtype=torch.long), torch.tensor([11]), r"labels must lie in \[0, 10\].*got 11"),
    ],
)
def test_bad_input_is_named(model, tokens, labels, message):
    with pytest.raises(ValueError, match=message):
        model(tokens, labels)


def test_patches_need_an_even_grid():
    with pytest.raises(ValueError, match="patches of 2"):
        build(proj=2)(torch.zeros(1, 3, 4, dtype=torch.long))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proj": 3}, "proj must be 1 or 2"),
        ({"heads": 0}, "heads must be at least 1"),
        ({"heads": 99}, "heads must be at most"),
        ({"register": -1}, "register must be at least 0"),
    ],
)
def test_bad_sizes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        MaskGITConfig(**{**TINY, **change})


def test_heads_are_asked_for_where_shapes_do_not_tell(weights):
    with pytest.raises(ValueError, match="pass heads="):
        MaskGITConfig.from_tensors(weights)
    with pytest.raises(ValueError, match="heads=5 does not fit"):
        MaskGITConfig.from_tensors(weights, heads=5)
