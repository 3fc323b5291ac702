"""LlamaGen's VQ model: parity with the official architecture, gradients, and its checks."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from catreparam.models.initialise import initialise
from catreparam.models.maskgit_loading import load_vq
from catreparam.models.vq import VQModel
from catreparam.models.vq_config import VQConfig
from official import vq_config

FIXTURES = Path(__file__).parent / "fixtures" / "maskgit"
OPTIONS = json.loads((FIXTURES / "tiny_configs.json").read_text())["vq"]["tiny"]
OFFICIAL = json.loads((FIXTURES / "checkpoints.json").read_text())["vq_ds16_c2i.pt"]
IO = load_file(FIXTURES / "vq_tiny_io.safetensors")


@pytest.fixture(scope="module")
def model():
    return load_vq(FIXTURES / "vq_tiny.safetensors", encoder=True)


def test_decoded_images_match_the_official_fixture(model):
    torch.testing.assert_close(model.decode_tokens(IO["codes"]), IO["decoded"], atol=1e-4, rtol=0)


def test_encoded_tokens_match_the_official_fixture(model):
    assert torch.equal(model.encode(IO["image"]), IO["encoded_codes"])


def test_decoder_alone_gives_the_same_images(model):
    alone = load_vq(FIXTURES / "vq_tiny.safetensors")
    assert not hasattr(alone, "encoder")
    assert torch.equal(alone.decode_tokens(IO["codes"]), model.decode_tokens(IO["codes"]))
    with pytest.raises(ValueError, match="without its encoder"):
        alone.encode(IO["image"])


def test_one_hot_tokens_decode_as_their_integers(model):
    x = torch.nn.functional.one_hot(IO["codes"].flatten(1), OPTIONS["codebook_size"]).float()
    images = model.decode_flat(x @ model.codebook())
    torch.testing.assert_close(images, model.decode_tokens(IO["codes"]), atol=1e-5, rtol=0)


def test_gradient_of_the_decoder_matches_finite_differences(model):
    wide = load_vq(FIXTURES / "vq_tiny.safetensors").double()
    codes = wide.codebook()[IO["codes"][:1, :2, :2]].permute(0, 3, 1, 2).clone().requires_grad_()
    assert torch.autograd.gradcheck(wide.decode, codes, fast_mode=True)


def test_official_model_has_every_name_and_shape():
    with torch.device("meta"):
        model = VQModel(vq_config(OFFICIAL["config"], usage_buffer=65536))
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == OFFICIAL["tensors"]


def test_config_of_the_official_model_is_read_off_its_shapes():
    tensors = {name: torch.empty(shape, device="meta") for name, shape in OFFICIAL["tensors"].items()}
    assert VQConfig.from_tensors(tensors) == vq_config(OFFICIAL["config"], usage_buffer=65536)


def test_config_of_the_fixture_is_read_off_its_shapes(model):
    assert model.config == vq_config(OPTIONS)


@pytest.mark.parametrize(
    "options",
    [
        {"ch": 4, "encoder_ch_mult": (1, 2, 2), "decoder_ch_mult": (1, 2, 4), "num_res_blocks": 1},
        {"ch": 4, "ch_mult": (1,), "num_res_blocks": 3},
        {"ch": 8, "ch_mult": (2, 1), "l2_normalised_codebook": False},
    ],
    ids=["halves differ", "one level", "coarse level narrower"],
)
def test_other_sizes_are_read_off_their_shapes_and_run(options):
    sizes = {"z_channels": 6, "codebook_size": 10, "codebook_embed_dim": 3, "group_norm_groups": 2, **options}
    config = vq_config(sizes)
    with torch.device("meta"):
        model = VQModel(config)
    initialise(model, torch.Generator().manual_seed(0))
    read = VQConfig.from_tensors(
        model.state_dict(), l2_normalised_codebook=config.l2_normalised_codebook, group_norm_groups=2
    )
    assert read == config
    tokens = torch.arange(4).reshape(1, 2, 2)
    images = model.decode_tokens(tokens)
    assert images.shape[-1] == 2 * config.downsampling
    assert model.encode(images).shape == (1, *[2 * config.downsampling // 2 ** (len(config.encoder_ch_mult) - 1)] * 2)


def test_codebook_has_length_one_only_where_it_is_normalised(model):
    assert torch.allclose(model.codebook().norm(dim=-1), torch.ones(OPTIONS["codebook_size"]))
    plain = load_vq(FIXTURES / "vq_tiny.safetensors", l2_normalised_codebook=False)
    assert torch.equal(plain.codebook(), plain.quantize.embedding.weight)


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (torch.full((1, 4, 4), 32), ValueError, r"tokens must lie in \[0, 31\], got 32"),
        (torch.full((1, 4, 4), -1), ValueError, r"got -1"),
        (torch.zeros(1, 4, 4), TypeError, "must be integers"),
    ],
)
def test_bad_tokens_are_named(model, tokens, error, message):
    with pytest.raises(error, match=message):
        model.decode_tokens(tokens)


def test_bad_shapes_are_named(model):
    with pytest.raises(ValueError, match="no square grid"):
        model.decode_flat(torch.zeros(1, 15, 8))
    with pytest.raises(ValueError, match="multiples of 2"):
        model.encode(torch.zeros(1, 3, 7, 8))
    with pytest.raises(ValueError, match="do not split into 32 groups"):
        vq_config({**OPTIONS, "ch": 20})
