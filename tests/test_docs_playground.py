"""The playground in a real browser: its numbers are those of the Python package on the same noise."""

import html
import json
import math
import re
from pathlib import Path

import pytest
import torch

import catreparam
from catreparam.report.figures import colour_of
from test_docs_site import load

DOCS = Path(__file__).parent.parent / "docs"
LOOKS = load("browser")
BROWSER = LOOKS.find_browser()
NUM_DRAWS = 2000
WEIGHTS = torch.tensor([1.5, 0.3, 0.8], dtype=torch.float64)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no browser: make browser")


def open_page(tmp_path: Path, fragment: str, script: str = "") -> tuple[dict, str]:
    """The numbers that the page shows for the state in its address, and its HTML after scripts ran."""
    (tmp_path / "playground.js").write_text((DOCS / "assets" / "playground.js").read_text(encoding="utf-8"))
    send = 'setTimeout(() => fetch("/--seen", {method: "POST", body: JSON.stringify(document.body.outerHTML)}), 100)'
    after = f'addEventListener("load", () => {{{script}; {send}}});'
    page = (
        '<meta charset="utf-8"><body><div id="playground"></div><script src="playground.js"></script>'
        f"<script>{after}</script></body>"
    )
    dom = LOOKS.visit(tmp_path, BROWSER, LOOKS.font_sets()["DejaVu"], page, f"#{fragment}")
    result = re.search(r'data-result="([^"]*)"', dom)
    assert result, dom[:2000]
    return json.loads(html.unescape(result[1])), dom


def mulberry32(seed: int):
    """The page's generator: uniform numbers in [0, 1) by 32-bit integer arithmetic."""
    state = seed & 0xFFFFFFFF
    while True:
        state = (state + 0x6D2B79F5) & 0xFFFFFFFF
        t = ((state ^ (state >> 15)) * (1 | state)) & 0xFFFFFFFF
        t = ((t + ((t ^ (t >> 7)) * (61 | t) & 0xFFFFFFFF)) & 0xFFFFFFFF) ^ t
        yield ((t ^ (t >> 14)) & 0xFFFFFFFF) / 4294967296


def normal(random) -> float:
    u, v = 1 - next(random), next(random)
    return math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v)


def pick(probs, uniform: float) -> int:
    return 0 if uniform < probs[0] else 1 if uniform < probs[0] + probs[1] else 2


def expected(method: str, logits: list[float], seed: int, **settings) -> dict[str, torch.Tensor]:
    """What the package makes of the page's noise, in float64."""
    random = mulberry32(seed)
    row = torch.tensor(logits, dtype=torch.float64)
    rows = row.expand(NUM_DRAWS, 3).clone().requires_grad_()
    p = torch.softmax(row, -1)
    schedule = catreparam.make_schedule("alpha" if method == "redge" else "lambda", **settings)
    if method == "redge":
        draws = [[*(normal(random) for _ in range(3)), next(random)] for _ in range(NUM_DRAWS)]
        noise = torch.tensor(draws, dtype=torch.float64)
        soft = catreparam.redge_surrogate(rows, noise=noise[:, :3], schedule=schedule)
        index = [pick(q, float(u)) for q, u in zip(soft.tolist(), noise[:, 3], strict=True)]
    else:
        draws = [(pick(p.tolist(), next(random)), [normal(random) for _ in range(3)]) for _ in range(NUM_DRAWS)]
        index = [k for k, _ in draws]
        noise = torch.tensor([eps for _, eps in draws], dtype=torch.float64)
    x = torch.nn.functional.one_hot(torch.tensor(index), 3).double()
    if method == "exact_redge":
        soft = catreparam.exact_redge_surrogate(rows, noise=noise, x=x, schedule=schedule)
    slope = 3 * (x @ WEIGHTS).square().unsqueeze(-1) * WEIGHTS
    (gradient,) = torch.autograd.grad((soft * slope).sum(), rows)
    values = WEIGHTS**3
    law = soft.detach().mean(0) if method == "redge" else p
    return {
        "p": p,
        "law": law,
        "mean_soft": soft.detach().mean(0),
        "gradient": gradient.mean(0),
        "deviation": gradient.std(0, correction=0),
        "exact": p * (values - p @ values),
        "counts": x.sum(0),
    }


@pytest.mark.parametrize("method", ["redge", "exact_redge"])
def test_samples_law_and_gradient_equal_the_package_on_the_same_noise(method, tmp_path):
    shown, dom = open_page(tmp_path, f"method={method}&t1=0.3&num_steps=3&logits=1.2,0,-0.7&seed=5")
    wanted = expected(method, [1.2, 0.0, -0.7], seed=5, num_steps=3, t1=0.3)
    for key, value in wanted.items():
        assert torch.allclose(torch.tensor(shown[key], dtype=torch.float64), value, atol=1e-9), key
    assert abs(shown["tv"] - float((wanted["law"] - wanted["p"]).abs().sum() / 2)) < 1e-9
    assert dom.count("<circle") == 600
    assert "Total variation between the law of x" in dom


def test_moving_sliders_changes_what_is_shown(tmp_path):
    move = """
      const root = document.getElementById("playground");
      for (const [name, value] of [["t1", 0.1], ["num_steps", 2], ["logit1", 2]]) {
        const input = root.querySelector(`input[name="${name}"]`);
        input.value = value;
        input.dispatchEvent(new Event("input", { bubbles: true }));
      }"""
    moved, dom = open_page(tmp_path, "", move)
    linked, _ = open_page(tmp_path, "t1=0.1&num_steps=2&logits=1,2,-0.5")
    assert moved == linked
    assert moved["tv"] > 0.05  # the law of redge at t1 = 0.1 and two steps
    assert '<output data-for="t1">0.1</output>' in dom


def test_the_address_follows_the_sliders_and_restores_them(tmp_path):
    move = """
      const root = document.getElementById("playground"), before = location.href;
      for (const [name, value] of [["t1", 0.25], ["num_steps", 7], ["logit2", -1.5], ["seed", 3]]) {
        const input = root.querySelector(`input[name="${name}"]`);
        input.value = value;
        input.dispatchEvent(new Event("input", { bubbles: true }));
      }
      document.body.dataset.address = location.hash;"""
    moved, dom = open_page(tmp_path, "", move)
    address = html.unescape(re.search(r'data-address="#([^"]*)"', dom)[1])
    assert address == "method=redge&t1=0.25&num_steps=7&logits=1,0,-1.5&seed=3"
    restored, _ = open_page(tmp_path, address)
    assert restored == moved


def test_an_address_without_settings_means_the_defaults(tmp_path):
    back = """location.hash = "#seed=0"; dispatchEvent(new Event("hashchange"));"""
    shown, _ = open_page(tmp_path, "t1=0.1&num_steps=2", back)
    default, _ = open_page(tmp_path, "")
    assert shown == default


def test_estimators_have_their_colours_here_too(tmp_path):
    for method in ("redge", "reinmax"):
        _, dom = open_page(tmp_path, f"method={method}")
        assert dom.count(f'fill="{colour_of(method)}"') == 6  # three classes, law and gradient


def test_every_estimator_of_the_menu_runs_and_the_address_is_not_trusted(tmp_path):
    for_each = """
      const menu = document.querySelector("#playground select"), seen = [];
      for (const option of menu.options) {
        menu.value = option.value;
        menu.dispatchEvent(new Event("input", { bubbles: true }));
        const { gradient, exact } = JSON.parse(document.getElementById("playground").dataset.result);
        seen.push(`${option.value} ${gradient.every(Number.isFinite)} ${Math.abs(gradient[0] - exact[0]) < 0.6}`);
      }
      document.body.dataset.seen = seen.join("; ");"""
    _, dom = open_page(tmp_path, "t1=-5&num_steps=1e9&logits=a,b,c&method=nonsense&seed=x", for_each)
    seen = re.search(r'data-seen="([^"]*)"', dom)[1]
    menu = ("redge", "exact_redge", "straight_through", "reinmax", "gumbel_softmax")
    assert [entry.split()[0] for entry in seen.split("; ")] == list(menu)
    assert all(entry.split()[1] == "true" for entry in seen.split("; "))
