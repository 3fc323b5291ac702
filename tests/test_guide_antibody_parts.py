"""What `catreparam guide antibody` is made of, on a tiny model: inputs, options, rewards, judges, logos."""

import sys
import types

import pytest
import torch

import antibody_bed as bed
from catreparam.cli import main
from catreparam.experiments.guide.antibody import judges, study
from catreparam.experiments.guide.antibody.inputs import Antibody, read_antibodies
from catreparam.experiments.guide.antibody.logo import draw_logo
from catreparam.experiments.guide.antibody.targets import Measures, make_reward, make_targets, one_hot
from catreparam.experiments.guide.antibody.weights import load_prior
from catreparam.models.antiberty import CHAINS, NUM_RESIDUES
from catreparam.objectives.residues import RESIDUES, liability_counts, net_charge

START = "EVQLVESGGGLVNGTYWCSR"
TINY = study.Config(
    sequence=(f"one={START}", "two=DIQMTQSPSSLSASVGDRVT"),
    design=("4-9,13-15",),
    charge=3.0,
    liabilities=0.0,
    weights=("charge=2",),
    estimator=("straight_through",),
    rivals=("unguided",),
    kl_weights=(0.1, 1.0),
    num_designs=3,
    num_rounds=2,
    num_steps=2,
    pll_positions=2,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    bed.install_weights(folder)
    return folder


@pytest.fixture(autouse=True)
def _weights(cache, monkeypatch):
    monkeypatch.setenv("CATREPARAM_DATA", str(cache))


def test_vocabularies_are_one():
    assert len(RESIDUES) == NUM_RESIDUES
    assert sorted(RESIDUES) == list(RESIDUES)


@pytest.mark.parametrize(
    ("sequences", "designs", "says"),
    [
        ((), (), "--sequence"),
        (("ACDX",), ("1",), "'X' at position 4 is no residue"),
        (("AC1",), ("1",), "'1' at position 3"),
        (("ACD",), (), "nothing is to be designed"),
        (("ACD",), ("2-4",), "range 2-4 .* positions are 1 to 3"),
        (("ACD",), ("0",), "range 0 "),
        (("ACD",), ("3-2",), "range 3-2 "),
        (("ACD",), ("a-b",), "cannot read the range 'a-b'"),
        (("ACD",), ("-1",), "cannot read the range '-1'"),
        (("A" * 511,), ("1",), "511 residues; AntiBERTy takes at most 510"),
        (("x=",), ("1",), "x has no residues"),
        (("x=ACD", "x=ACE"), ("1",), "two sequences are called 'x'"),
        (("a/b=ACD",), ("1",), "a name may hold"),
        ((f"{'a' * 61}=ACD",), ("1",), "1 to 60 letters"),
        (("ACD", "ACE"), ("1", "2", "3"), "once for each of 2 sequences"),
    ],
)
def test_what_cannot_be_read_is_named(sequences, designs, says):
    with pytest.raises(ValueError, match=says):
        read_antibodies(sequences, designs)


def test_positions_come_from_ranges_and_underscores():
    (antibody,) = read_antibodies(("AC_EF",), ("1,4-5",))
    assert antibody == Antibody("sequence-1", "AC_EF", (0, 2, 3, 4))
    assert antibody.tokens().tolist() == [20, 1, 20, 20, 20]
    assert not antibody.is_known
    assert [a.positions for a in read_antibodies(("ACD", "ACE"), ("1", "2"))] == [(0,), (1,)]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "holds no sequence"), (b"ACD\n", "line 1"), (b"\xff\xfe\x00", "not text"), (b">a\n", "a has no residues")],
)
def test_a_file_that_is_no_fasta_is_one_line(tmp_path, capsys, content, says):
    path = tmp_path / "bad.fasta"
    path.write_bytes(content)
    assert main(["guide", "antibody", "--fasta", str(path), "--design", "1", "--charge", "1"]) == 2
    said = capsys.readouterr().err.strip()
    assert says in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "say what the designs should be"),
        (["--charge", "nan"], "charge"),
        (["--charge", "8", "--weights", "pi=2"], "pi"),
        (["--charge", "8", "--weights", "charge"], "cannot read the weight"),
        (["--charge", "8", "--weights", "charge=0"], "weight of charge"),
        (["--chain", "middle"], "middle"),
        (["--species", "humman"], "Did you mean 'human'"),
        (["--gravy", "-1.5", "--ph", "15"], "ph"),
        (["--charge", "8", "--precision", "float16"], "float16"),
        (["--liabilities", "0", "--liability-kinds", "rust"], "rust"),
        (["--charge", "8", "--estimator", "redgee"], "redge"),
        (["--charge", "8", "--num-designs", "0"], "num_designs"),
        (["--charge", "8", "--fasta", "x.fasta"], "not both"),
        (["--charge", "8", "--model", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--charge", "start", "--sequence", "AC_D"], "without _"),
    ],
)
def test_bad_options_are_one_line_before_anything_is_written(tmp_path, capsys, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    assert main(["guide", "antibody", "--sequence", START, "--design", "1-3", *options]) == 2
    said = capsys.readouterr().err.strip()
    assert says in said
    assert "\n" not in said
    assert list(tmp_path.iterdir()) == []


def test_without_weights_the_command_that_fetches_them_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CATREPARAM_DATA", str(tmp_path / "empty"))
    assert main(["guide", "antibody", "--sequence", START, "--design", "1", "--charge", "8"]) == 2
    assert "catreparam data antiberty" in capsys.readouterr().err


def test_the_reward_is_the_weighted_sum_of_its_terms():
    model, measures = load_prior(), Measures()
    antibody = Antibody("a", START, tuple(range(16)))
    x = one_hot([START, "K" * len(START)])
    charge, count = net_charge(x), liability_counts(x).sum(-1) - 1  # the W outside
    heavy = model.log_probs("chain", x)[:, CHAINS.index("heavy")]
    cases = [
        ({"charge": 8.0}, (), -((charge - 8) ** 2)),
        ({"charge": "start"}, ("charge=3",), -3 * (charge - charge[0]) ** 2),
        ({"liabilities": 0.0, "chain": "heavy"}, ("chain=0.5",), -(count**2) + 0.5 * heavy),
    ]
    for wanted, weights, expected in cases:
        torch.testing.assert_close(make_reward(make_targets(wanted, weights), measures, antibody, model)(x), expected)


def test_liabilities_that_no_design_can_change_do_not_count():
    """N at 2 is designed: NGT counts twice, as a site of glycosylation and of deamidation; the W outside does not."""
    antibody = Antibody("a", "AANGTWAW", (2, 7))
    values = Measures().all_of(["AANGTWAW", "AAAGTWAA", "AAAGTWAC"], antibody)["liabilities"]
    assert values == [3.0, 0.0, 1.0]
    assert Measures(liability_kinds=("unpaired_cysteine",)).all_of(["AANGTWAC"], antibody)["liabilities"] == [1.0]


@pytest.mark.parametrize("name", ["charge", "pi", "gravy", "patch", "aromaticity", "liabilities", "chain", "species"])
def test_every_target_has_a_finite_gradient_on_hard_and_relaxed_sequences(name):
    value = {"chain": "light", "species": "mouse"}.get(name, 0.3)
    reward = make_reward(make_targets({name: value}, ()), Measures(), Antibody("a", START, (0,)), load_prior())
    hard = one_hot([START])
    for x in (hard, hard.lerp(torch.full_like(hard, 0.05), 0.5)):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(reward(x).sum(), x)
        assert bool(gradient.isfinite().all())
        assert float(gradient.abs().sum()) > 0


def test_the_pseudo_log_likelihood_hides_one_residue_at_a_time():
    model, tokens = load_prior(), one_hot([START]).argmax(-1)
    total = 0.0
    for place in (2, 5):
        hidden = tokens.clone()
        hidden[0, place] = model.mask_token
        with torch.no_grad():
            total += float(model(hidden)[0, place].log_softmax(-1)[tokens[0, place]])
    generator = torch.Generator().manual_seed(0)
    found = judges.pseudo_log_likelihood(model, tokens, (2, 5), 0, generator)
    assert float(found) == pytest.approx(total / 2, abs=1e-5)
    many = judges.pseudo_log_likelihood(model, tokens.expand(200, -1), (2, 5), 1, generator)
    assert len(many.unique()) == 2  # which position is drawn by lot
    assert float(many.unique().mean()) == pytest.approx(total / 2, abs=1e-5)


def test_identity_and_diversity_count_designed_positions():
    antibody = Antibody("a", "ACDE", (1, 2))
    assert [judges.identity(design, antibody) for design in ("ACDE", "ACWE", "AWWE")] == [1.0, 0.5, 0.0]
    assert judges.identity("ACDE", Antibody("a", "A__E", (1, 2))) is None
    assert judges.diversity(["ACDE", "ACWE", "AWWE"], (1, 2)) == pytest.approx((1 + 2 + 1) / 6)
    assert judges.diversity(["ACDE"], (1, 2)) is None


def test_numbering_asks_for_the_chain_of_the_start(monkeypatch):
    """A stand-in for anarcii with its calls: as kind of chain the first letter, K is no antibody."""
    module = types.ModuleType("anarcii")

    class Anarcii:
        def __init__(self, **_):
            torch.set_num_threads(1)

        def number(self, sequences):
            print("numbering")
            return {k: {"chain_type": s[0], "error": "no" if s[0] == "K" else None} for k, s in sequences.items()}

    module.Anarcii, module.__spec__ = Anarcii, types.SimpleNamespace(name="anarcii")
    monkeypatch.setitem(sys.modules, "anarcii", module)
    judges._anarcii.cache_clear()
    assert judges.numbered(["HA", "LA", "KA", "AA"], Antibody("a", "HC", (1,))) == [1.0, 0.0, 0.0, 0.0]
    assert judges.numbered(["HA", "LA", "KA", "AA"], Antibody("a", "H_", (1,))) == [1.0, 1.0, 0.0, 0.0]
    assert judges.numbered(["HA", "AA"], Antibody("a", "KC", (1,))) == [1.0, 0.0]  # the start is none itself
    judges._anarcii.cache_clear()


def test_protparam_agrees_with_what_is_optimised():
    pytest.importorskip("Bio.SeqUtils.ProtParam", reason="comes with pip install 'catreparam[dev]'")
    found = judges.protparam([START, "KKDE"], ph=6.0)
    assert found["protparam_charge"] == pytest.approx(
        [float(net_charge(one_hot([s]), 6.0)) for s in (START, "KKDE")], abs=1e-5
    )
    assert found["instability"][1] > 0
    assert all(len(values) == 2 for values in found.values())


def test_judges_that_are_not_installed_say_nothing(monkeypatch):
    monkeypatch.setattr(judges.importlib.util, "find_spec", lambda name: None)
    assert judges.numbered(["HA"], Antibody("a", "HC", (1,))) == [None]
    assert set(map(tuple, judges.protparam(["HA"], 7.4).values())) == {(None,)}
    assert judges.missing_judges() == ["biopython", "anarcii"]


def test_a_logo_is_a_picture_with_something_in_it():
    picture = draw_logo("before", [START], (3, 4, 12))
    assert picture.shape[0] == 3
    assert picture.shape[2] > 3 * picture.shape[1]  # a strip, which the page gives a row of its own
    assert 0 <= float(picture.min()) < 0.5 < float(picture.max()) <= 1
