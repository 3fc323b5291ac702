"""The masked denoiser, its training on boards, resuming, and weights that are damaged."""

import pickle

import pytest
import safetensors.torch
import torch

from catreparam.data.sudoku import held_back_puzzles
from catreparam.data.sudoku_solver import UNITS, solve
from catreparam.experiments.sudoku import train as sudoku_prior
from catreparam.experiments.sudoku.board import boards_to_tensor
from catreparam.experiments.sudoku.priors import PRIORS, DamagedWeights, load_prior, sudoku_denoiser
from catreparam.experiments.sudoku.train import Config, run
from catreparam.experiments.sudoku.training import draw_masked, shuffle_boards
from catreparam.models.denoiser import MaskedDenoiser

TINY = {"num_steps": 16, "batch_size": 2, "num_puzzles": 3}


@pytest.fixture(autouse=True)
def few_held_back_puzzles(monkeypatch):
    """The check for overlap solves all 3,000 held-back puzzles."""
    monkeypatch.setattr(sudoku_prior, "held_back_puzzles", lambda level: held_back_puzzles(level, 5))


def tokens_of(level: str, count: int) -> torch.Tensor:
    puzzles = boards_to_tensor(held_back_puzzles(level, count))
    return (puzzles - 1).masked_fill(puzzles == 0, 9)


def test_prior_treats_moved_rows_and_columns_alike():
    model, tokens = sudoku_denoiser(), tokens_of("hard", 2)
    rows = [4, 3, 5, 7, 8, 6, 1, 0, 2]  # bands moved, and lines within them
    moved = torch.tensor([9 * row + column for row in rows for column in reversed(range(9))])
    torch.testing.assert_close(model(tokens[:, moved]), model(tokens)[:, moved], rtol=1e-4, atol=1e-5)


def test_prior_sees_nothing_beyond_row_column_and_box_in_one_block():
    model = MaskedDenoiser(9, 81, width=12, num_heads=3, num_layers=1, positions=False, attention_mask=_relation())
    tokens = tokens_of("easy", 1)
    changed = tokens.clone()
    changed[0, 80] = (tokens[0, 80] + 1) % 9
    difference = (model(changed) - model(tokens)).abs().amax(-1)[0]
    peers = {cell for unit in UNITS if 80 in unit for cell in unit}
    assert {cell for cell in range(81) if difference[cell] > 0} == peers


def _relation() -> torch.Tensor:
    return sudoku_denoiser().get_buffer("attention_mask")


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = sudoku_denoiser(3).state_dict()
    torch.manual_seed(2)
    second, other = sudoku_denoiser(3).state_dict(), sudoku_denoiser(4).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["token_embedding"], other["token_embedding"])


def test_labels_positions_and_loops_of_the_denoiser():
    generator = torch.Generator().manual_seed(0)
    model = MaskedDenoiser(5, 4, width=8, num_heads=2, num_loops=3, num_labels=2, generator=generator)
    tokens = torch.full((2, 4), model.mask_token)
    labelled = model(tokens, torch.tensor([0, 1]))
    assert labelled.shape == (2, 4, 5)
    assert len(list(model.logits_of_loops(tokens))) == 3
    assert not torch.allclose(labelled[0], labelled[1])
    assert not torch.allclose(labelled[0, 0], labelled[0, 1])
    assert torch.equal(model(tokens), model(tokens, torch.tensor([2, 2])))  # no label is the last embedding


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 10, "num_heads": 4}, "multiple of num_heads, got 10 and 4"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"attention_mask": torch.ones(1, 4, 4, dtype=torch.bool)}, r"must be \(4, 4, 4\), got \(1, 4, 4\)"),
    ],
)
def test_a_denoiser_of_impossible_sizes_is_an_error(sizes, message):
    with pytest.raises(ValueError, match=message):
        MaskedDenoiser(5, 4, **sizes)


def test_tokens_of_another_length_are_an_error():
    with pytest.raises(ValueError, match=r"\[batch, 81\], got \(1, 80\)"):
        sudoku_denoiser()(torch.zeros(1, 80, dtype=torch.long))


def test_shuffled_boards_are_boards_and_keep_their_clues():
    puzzles = boards_to_tensor(held_back_puzzles("hard", 20))
    targets = boards_to_tensor([solve(puzzle) for puzzle in puzzles.tolist()]) - 1
    clues, shuffled = shuffle_boards(puzzles > 0, targets, torch.Generator().manual_seed(0))
    assert not torch.equal(shuffled, targets)
    for unit in UNITS:
        assert torch.equal(shuffled[:, unit].sort(-1).values, torch.arange(9).expand(20, 9))
    assert torch.equal(clues.sum(-1), (puzzles > 0).sum(-1))


def test_every_board_has_a_masked_cell_and_every_other_keeps_its_clues():
    clues = torch.rand(400, 81, generator=torch.Generator().manual_seed(0)) < 0.3
    masked = draw_masked(clues, torch.Generator().manual_seed(1))
    assert bool(masked.any(-1).all())
    assert not bool((masked & clues)[::2].any())
    assert bool((masked & clues)[1::2].any())


def test_training_killed_midway_resumes_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(sudoku_prior, "STEPS_A_RECORD", 4)
    run(Config(**TINY, folder=tmp_path / "whole"))
    real, steps = sudoku_prior.train_step, []

    def interrupted(state, *args, **kwargs):
        steps.append(state.step)
        if len(steps) == 11:  # after the checkpoint of step 8, amid the way to the next
            raise RuntimeError("killed")
        return real(state, *args, **kwargs)

    monkeypatch.setattr(sudoku_prior, "train_step", interrupted)
    with pytest.raises(RuntimeError, match="killed"):
        run(Config(**TINY, folder=tmp_path / "cut"))
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')
    report = run(Config(**TINY, folder=tmp_path / "cut"))
    assert steps[11] == 8
    assert [row["length"] for row in report.table.rows] == ["short", "medium", "long"]
    for length in ("short", "medium", "long"):
        whole, cut = (
            safetensors.torch.load_file(tmp_path / name / "weights" / f"sudoku_{length}.safetensors")
            for name in ("whole", "cut")
        )
        assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_trained_weights_are_read_back_by_path(tmp_path):
    run(Config(num_steps=16, batch_size=1, num_puzzles=1, folder=tmp_path))
    path = tmp_path / "weights" / "sudoku_long.safetensors"
    model = load_prior(str(path))
    kept = safetensors.torch.load_file(path)
    assert all(torch.equal(value, kept[key].float()) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", PRIORS)
def test_shipped_priors_load_and_differ(name):
    model = load_prior(name)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.isfinite(model(tokens_of("easy", 2))).all()


def test_longer_training_gives_better_shipped_priors():
    puzzles = boards_to_tensor(held_back_puzzles("medium", 40))
    targets = boards_to_tensor([solve(puzzle) for puzzle in puzzles.tolist()]) - 1
    blank, tokens = puzzles == 0, (puzzles - 1).masked_fill(puzzles == 0, 9)
    losses = []
    for name in PRIORS:
        logits = load_prior(name)(tokens)
        losses.append(float(torch.nn.functional.cross_entropy(logits[blank], targets[blank])))
    assert losses == sorted(losses, reverse=True)


class _Trap:
    def __reduce__(self):
        return (pytest.fail, ("a weights file was executed",))


def test_damaged_weights_give_one_clear_error(tmp_path):
    good = safetensors.torch.save(sudoku_denoiser().state_dict())
    path = tmp_path / "prior.safetensors"
    bad = {
        "is damaged": good[: len(good) // 2],
        "is damaged (": pickle.dumps(_Trap()),
        "token_embedding has shape (2, 2), not (10, 96)": safetensors.torch.save(
            sudoku_denoiser().state_dict() | {"token_embedding": torch.zeros(2, 2)}
        ),
        "readout is not finite": safetensors.torch.save(
            sudoku_denoiser().state_dict() | {"readout": torch.full((9, 96), torch.nan)}
        ),
    }
    for message, content in bad.items():
        path.write_bytes(content)
        with pytest.raises(DamagedWeights) as error:
            load_prior(str(path))
        assert message in str(error.value)
        assert str(path) in str(error.value)
    with pytest.raises(FileNotFoundError, match="there are no weights at"):
        load_prior(str(tmp_path / "none.safetensors"))
    with pytest.raises(ValueError, match="Did you mean 'long'"):
        load_prior("lang")
