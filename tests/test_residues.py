"""Properties of residues: values against Biopython's ProtParam, gradients against differences, relaxed means."""

from functools import partial
from itertools import product

import pytest
import torch

from catreparam.objectives.residues import (
    LIABILITIES,
    MOTIFS,
    RESIDUES,
    aromaticity,
    hydropathy,
    hydrophobic_patch,
    isoelectric_point,
    liability_counts,
    net_charge,
)

HEAVY = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRY"
    "ADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS"
)
VALUES = {
    "charge": net_charge,
    "charge at 5.5": partial(net_charge, ph=5.5),
    "pi": isoelectric_point,
    "gravy": hydropathy,
    "patch": hydrophobic_patch,
    "aromaticity": aromaticity,
}
# By Biopython 1.88: ProteinAnalysis(sequence), its protein_scale(kd, 9) for the patch.
PROTPARAM = {
    HEAVY: (0.628314, 2.287942, 8.027684, -0.305, 1.166667, 0.133333),
    "MDDEECYDEW": (-6.737419, -5.671613, 4.050028, -1.88, -1.988889, 0.2),
    "PKRRHKKRHK": (6.964483, 8.512071, 11.999968, -3.71, -3.688889, 0.0),
    "TACDEFGHIKLMNPQRSTVWYE": (-1.77974, 0.054093, 5.543757, -0.636364, 0.044444, 0.136364),
}


def one_hot(sequence, dtype=torch.float64):
    return torch.eye(20, dtype=dtype)[[RESIDUES.index(letter) for letter in sequence]]


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("sequence", PROTPARAM, ids=lambda text: text[:6])
def test_values_are_protparams(sequence, name):
    expected = PROTPARAM[sequence][list(VALUES).index(name)]
    value = float(VALUES[name](one_hot(sequence)))
    if name == "pi":
        value = min(max(value, 4.05), 12.0)  # where ProtParam's search ends
    assert value == pytest.approx(expected, abs=1e-4 if name == "pi" else 1e-6)


def test_values_are_protparams_on_random_sequences():
    protparam = pytest.importorskip("Bio.SeqUtils.ProtParam", reason="comes with pip install 'catreparam[dev]'")
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        sequence = "".join(RESIDUES[i] for i in torch.randint(20, (60,), generator=generator))
        analysis = protparam.ProteinAnalysis(sequence)
        patch = max(analysis.protein_scale(protparam.ProtParamData.kd, 9))
        expected = (
            *(analysis.charge_at_pH(7.4), analysis.charge_at_pH(5.5), analysis.isoelectric_point()),
            *(analysis.gravy(), patch, analysis.aromaticity()),
        )
        found = [float(value(one_hot(sequence))) for value in VALUES.values()]
        assert found == pytest.approx(expected, abs=1e-4)


def relaxed(batch, length, seed=0):
    return torch.randn(batch, length, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).softmax(
        -1
    )


def of_liability(kind):
    return lambda x: liability_counts(x, (kind,)).squeeze(-1)


EVERY = {**VALUES, **{kind: of_liability(kind) for kind in LIABILITIES}}


@pytest.mark.parametrize("at", ["relaxed", "hard"])
@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_those_of_finite_differences(name, at):
    x = relaxed(2, 12) if at == "relaxed" else one_hot("TACDNGSRGDMCNFSW").expand(2, -1, -1).clone()
    x += 1e-3 * relaxed(*x.shape[:2], seed=1)  # away from windows of the same height
    assert torch.autograd.gradcheck(EVERY[name], x.requires_grad_(), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_and_dtypes_stay(name, dtype):
    x = relaxed(6, 9).to(dtype).unflatten(0, (2, 3))
    values = EVERY[name](x)
    assert values.shape == (2, 3)
    assert values.dtype == dtype
    torch.testing.assert_close(values[1, 2], EVERY[name](x[1, 2]))


def test_unpaired_cysteine_is_the_probability_of_an_odd_number():
    x = relaxed(1, 4)[0]
    cysteine = x[:, RESIDUES.index("C")]
    expected = sum(
        torch.stack([p if bit else 1 - p for p, bit in zip(cysteine, bits, strict=True)]).prod()
        for bits in product((0, 1), repeat=4)
        if sum(bits) % 2
    )
    torch.testing.assert_close(of_liability("unpaired_cysteine")(x), expected)


@pytest.mark.parametrize("kind", MOTIFS)
def test_motifs_are_counted_as_a_search_counts_them(kind):
    generator = torch.Generator().manual_seed(1)
    letters = "NPSTGDMWRAC"
    for _ in range(30):
        sequence = "".join(letters[i] for i in torch.randint(len(letters), (25,), generator=generator))
        count = 0
        for start in range(len(sequence) - len(MOTIFS[kind]) + 1):
            places = zip(MOTIFS[kind], sequence[start:], strict=False)
            count += all(letter != "P" if allowed == "^P" else letter in allowed for allowed, letter in places)
        assert float(of_liability(kind)(one_hot(sequence))) == count


def test_sequences_shorter_than_a_motif_or_window_have_values():
    assert liability_counts(one_hot("N")).tolist() == [0.0] * len(LIABILITIES)
    assert float(hydrophobic_patch(one_hot("AI"))) == pytest.approx(3.15)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: net_charge(x, ph=15.0), "ph"),
        (lambda x: hydrophobic_patch(x, window=0), "window"),
        (lambda x: liability_counts(x, ("rust",)), "unknown liability 'rust'"),
    ],
)
def test_bad_settings_are_named(call, says):
    with pytest.raises(ValueError, match=says):
        call(one_hot("ACD"))
