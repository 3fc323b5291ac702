"""The numbers of a run as Markdown."""

from __future__ import annotations

TARGETS = {  # compiled path, times faster: against redge 0.1.0 (num_steps = 4), against torch's gumbel_softmax(hard=True)
    "200 x 48 x 2": (40, 15),
    "100 x 30 x 10": (25, 10),
    "256 x 128 x 2": (50, 20),
    "64 x 100": (14, 5),
    "1 x 576 x 16384": (25, 7),
    "1024 x 32 x 32": (10, 6),
    "64 x 81 x 9": (25, 10),
}


def markdown(result: dict) -> str:
    """The table of targets, then everything."""
    rows = {(row["shape"], row["sampler"]): row for row in result["rows"]}
    shapes = list(dict.fromkeys(row["shape"] for row in result["rows"]))
    lines = ["# Speed of the samplers", "", ", ".join(f"{key} {value}" for key, value in result["machine"].items()), ""]
    if result["missing"]:
        lines += [f"Not installed: {', '.join(result['missing'])}.", ""]
    if result["red"]:
        lines += [f"NOT TIMED, parity red: {result['red']}", ""]
    lines += [
        "Forward + backward, medians. `redge (compiled)` against its peers, times faster (target):",
        "",
        "| shape | redge (compiled), ms | against redge 0.1.0 | against gumbel_softmax | redge (naive) against redge 0.1.0 |",
        "|---|---|---|---|---|",
    ]
    for shape in shapes:
        lines.append("| " + " | ".join(_targets(shape, rows)) + " |")
    lines += [
        "",
        "Everything, milliseconds: median (lower quartile, upper quartile, least); peak in tensors of the logits' size.",
        "",
    ]
    lines += ["| shape | sampler | forward | forward + backward | peak |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        cells = [
            row["shape"],
            row["sampler"],
            _spread(row["forward"]),
            _spread(row["both"]),
            f"{row['peak_tensors']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _targets(shape: str, rows: dict) -> list[str]:
    def median(sampler: str) -> float:
        return rows[shape, sampler]["both"]["median"] if (shape, sampler) in rows else float("nan")

    compiled, peer = median("redge (compiled)"), median("redge 0.1.0")
    against_peer, against_gumbel = TARGETS[shape]
    return [
        shape,
        f"{1e3 * compiled:.3f}",
        f"{peer / compiled:.1f} ({against_peer})",
        f"{median('torch gumbel_softmax') / compiled:.1f} ({against_gumbel})",
        f"{peer / median('redge (naive)'):.1f}",
    ]


def _spread(times: dict) -> str:
    return "{:.3f} ({:.3f}, {:.3f}, {:.3f})".format(*(1e3 * times[key] for key in ("median", "low", "high", "least")))
