"""`catreparam guide maskgit`, end to end with the tiny official models and a stand-in for CLIP."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from catreparam.cli import main
from catreparam.experiments.guide import maskgit as guide_maskgit
from catreparam.models.text_scores import StandInScorer, load_text_score

FIXTURES = Path(__file__).parent / "fixtures" / "maskgit"
VIT, VQGAN = str(FIXTURES / "transformer_patch1.safetensors"), str(FIXTURES / "vq_tiny.safetensors")
TINY = {"vit": VIT, "vqgan": VQGAN, "heads": 4, "num_images": 2, "num_rounds": 3, "num_steps": 2, "scorer": "stand-in"}


def config(folder, **changes):
    return guide_maskgit.Config(**{"prompt": "a red bird", **TINY, "folder": folder, **changes})


def words(folder, *more, **changes):
    options = {"--vit": VIT, "--vqgan": VQGAN, "--heads": "4", "--num-images": "2", "--num-rounds": "2"}
    options |= {
        "--num-steps": "1",
        "--folder": str(folder),
        **{f"--{k.replace('_', '-')}": v for k, v in changes.items()},
    }
    return ["guide", "maskgit", *(word for pair in options.items() if pair[1] is not None for word in pair), *more]


def test_prompt_gives_images_and_a_report(tmp_path, capsys):
    assert main(words(tmp_path / "run", prompt="a red bird", scorer="stand-in", judge="stand-in")) == 0
    assert "a red bird" in capsys.readouterr().out
    made = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"image-000.png", "image-001.png", "report.html", "table.md", "config.json"} <= made


def test_the_report_of_a_folder_is_rebuilt_once_the_generation_is_finished(tmp_path, capsys):
    folder = tmp_path / "run"
    whole = guide_maskgit.run(config(folder))
    table, images = (folder / "table.md").read_text(), (folder / "image-001.png").read_bytes()
    for name in ("table.md", "report.html", "image-001.png"):
        (folder / name).unlink()
    assert main(["report", str(folder)]) == 0
    assert whole.title in capsys.readouterr().out
    assert (folder / "table.md").read_text() == table
    assert (folder / "image-001.png").read_bytes() == images
    (folder / "checkpoints" / "result.safetensors").unlink()
    assert main(["report", str(folder)]) == 2
    assert "is not finished" in capsys.readouterr().err


def test_guidance_raises_the_score_of_the_prompt(tmp_path):
    def mean_reward(weight):
        folder = tmp_path / f"{weight}"
        run = config(folder, reward_weight=weight, num_images=8, num_rounds=6, num_steps=10, remask_sigma=0.0)
        guide_maskgit.run(run)
        images = load_file(folder / "checkpoints" / "result.safetensors")["images"]
        return float(StandInScorer("a red bird")(images).mean())

    assert mean_reward(100.0) > mean_reward(0.0) + 0.2


def test_killed_generation_goes_on_to_the_same_images(tmp_path, monkeypatch):
    guide_maskgit.run(config(tmp_path / "whole"))
    calls = []

    class Dying(StandInScorer):
        def __call__(self, images):
            calls.append(1)
            if len(calls) == 4:  # in the second round
                raise KeyboardInterrupt
            return super().__call__(images)

    monkeypatch.setattr(guide_maskgit, "load_text_score", lambda scorer, prompt, device: Dying(prompt))
    with pytest.raises(KeyboardInterrupt):
        guide_maskgit.run(config(tmp_path / "cut"))
    calls.extend([1] * 10)
    guide_maskgit.run(config(tmp_path / "cut"))
    assert len(calls) == 4 + 10 + 2 * 2 + 1  # two rounds of two steps, and the final reward
    results = [load_file(tmp_path / name / "checkpoints" / "result.safetensors") for name in ("whole", "cut")]
    assert torch.equal(results[0]["tokens"], results[1]["tokens"])


@pytest.mark.parametrize("changes", [{"label": 3}, {"reward": "symmetry", "prompt": ""}, {"estimator": "exact_redge"}])
def test_labels_rewards_and_estimators(tmp_path, changes):
    report = guide_maskgit.run(config(tmp_path / "run", **changes))
    assert len(report.table.rows) == 2


def test_imagenet_reward_reaches_the_images(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    run = config(tmp_path / "run", reward="imagenet:281", prompt="", num_images=1, num_rounds=1, num_steps=1)
    assert guide_maskgit.run(run).table.rows[0]["reward"] < 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "a bird"}, "needs a text-image model"),
        ({"prompt": "a bird", "scorer": "nowhere"}, "nowhere is no folder of a transformers CLIP model"),
        ({"prompt": "a bird", "scorer": "open_clip:ViT-B-32:nowhere"}, "with a file of weights"),
        ({"prompt": "a bird", "reward": "symmetry", "scorer": "stand-in"}, "not both"),
        ({}, "not both and not neither"),
        ({"prompt": "a bird", "scorer": "stand-in", "vit": None}, "--vit is missing"),
        ({"prompt": "a bird", "scorer": "stand-in", "vqgan": "nowhere.pt"}, "there is no checkpoint nowhere.pt"),
        ({"prompt": "a bird", "scorer": "stand-in", "vit": VQGAN}, "no checkpoint of a MaskGIT transformer"),
        ({"prompt": "a bird", "scorer": "stand-in", "heads": "5"}, "heads=5 does not fit"),
        ({"prompt": "a bird", "scorer": "stand-in", "label": "10"}, "label must lie in [0, 9]"),
        ({"reward": "class:3"}, "is a reward of digits"),
        ({"reward": "imagenet:1000"}, "an ImageNet label lies in [0, 999]"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, changes, message):
    assert main(words(tmp_path / "run", **changes)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_wrong_vocabulary_is_one_line(tmp_path, capsys):
    tensors = load_file(VQGAN)
    tensors["quantize.embedding.weight"] = tensors["quantize.embedding.weight"][:16].clone()
    save_file(tensors, tmp_path / "small.safetensors")
    run = words(tmp_path / "run", prompt="a bird", scorer="stand-in", vqgan=str(tmp_path / "small.safetensors"))
    assert main(run) == 2
    assert "32 codes and the VQ model 16" in capsys.readouterr().err


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_malicious_checkpoint_is_one_line_and_does_nothing(tmp_path, capsys):
    torch.save({"model_state_dict": {"w": torch.zeros(1)}, "x": Malicious(tmp_path / "made")}, tmp_path / "bad.pth")
    run = words(tmp_path / "run", prompt="a bird", scorer="stand-in", vit=str(tmp_path / "bad.pth"))
    assert main(run) == 2
    assert "reading it could run code" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_reward_that_is_not_finite_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(StandInScorer, "__call__", lambda self, images: images.sum((1, 2, 3)) * float("nan"))
    assert main(words(tmp_path / "run", prompt="a bird", scorer="stand-in")) == 2
    assert "the reward returned nan" in capsys.readouterr().err


def test_clip_of_transformers_scores_images(tmp_path):
    """A tiny CLIP with random weights and a tokenizer of letters: the way there, not the quality."""
    transformers = pytest.importorskip("transformers")
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    layer = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**layer, "vocab_size": 54, "max_position_embeddings": 12, "bos_token_id": 52, "eos_token_id": 53}
    sizes = transformers.CLIPConfig(
        text_config={**text, "pad_token_id": 53},
        vision_config={**layer, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    transformers.CLIPModel(sizes).save_pretrained(tmp_path)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    scores = {prompt: load_text_score(str(tmp_path), prompt)(images) for prompt in ("a red bird", "a blue fish")}
    assert all(score.shape == (2,) and (score.abs() <= 1.001).all() for score in scores.values())
    assert not torch.equal(*scores.values())
    (gradient,) = torch.autograd.grad(scores["a red bird"].sum(), images)
    assert gradient.abs().sum() > 0


def test_empty_prompt_is_named():
    with pytest.raises(ValueError, match="the prompt is empty"):
        load_text_score("stand-in", "  ")
