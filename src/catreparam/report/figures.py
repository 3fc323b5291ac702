"""Plots as SVG and pictures as PNG, drawn by matplotlib without a display and without touching its global state."""

import base64
import hashlib
import io
import re
from collections.abc import Sequence
from typing import Any

import torch

from catreparam.report.content import Curve, ImageGrid, Plot

# Okabe and Ito's palette (told apart with any colour vision), darkest first, then line styles when it runs out.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f", "#8a63d2")
SALT = 206  # by which the estimators that are compared most have a colour each
LINE_STYLES = ("-", "--", ":", "-.")
MARKERS = "os^D"

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # real text: sharp, small, and selectable
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#334155",
    "xtick.color": "#475569",
    "ytick.color": "#475569",
    "axes.grid": True,
    "grid.color": "#94a3b8",
    "grid.alpha": 0.3,
    "figure.facecolor": "none",  # the page's, light or dark
    "axes.facecolor": "none",
    "legend.frameon": False,
}


def plot_to_svg(plot: Plot, labels: Sequence[str]) -> str:
    """One <svg> element. A curve's colour is its name's; its line or marker tells it from others of `labels`, the list
    for all plots of a page, that have the same colour.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": plot.title}):
        longest = max((len(curve.label) for curve in plot.curves), default=0)
        columns = 3 if longest < 22 else 2 if longest < 36 else 1  # of the legend, which stands below the axes
        figure = Figure(figsize=(5.4, 3.3 + 0.19 * -(-len(plot.curves) // columns)), layout="constrained")
        axes = figure.add_subplot()
        for curve in plot.curves:
            colour = colour_of(curve.label)
            place = [label for label in labels if colour_of(label) == colour].index(curve.label)
            _draw(axes, curve, colour, place)
            if curve.error and len(curve.x) > 1 and not curve.points:
                lowest = min(y for y in curve.y) / 10 if plot.log_y else float("-inf")  # of what a logarithm can show
                low = [max(y - e, lowest) for y, e in zip(curve.y, curve.error, strict=True)]
                high = [y + e for y, e in zip(curve.y, curve.error, strict=True)]
                axes.fill_between(curve.x, low, high, color=colour, alpha=0.15, lw=0)
        for place in plot.marks:
            axes.axvline(place, color="#94a3b8", lw=0.8, ls=":", zorder=0)
        axes.set_xlabel(_plain(plot.x_label))
        axes.set_ylabel(_plain(plot.y_label))
        if plot.log_x:
            _make_log(axes.set_xscale, axes.xaxis)
        elif all(float(x).is_integer() for curve in plot.curves for x in curve.x):
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        if plot.log_y:
            _make_log(axes.set_yscale, axes.yaxis)
        elif not plot.whole:
            _fit_heights(axes, plot)
        if plot.curves:
            figure.legend(fontsize=8.5, loc="outside lower center", ncols=columns)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue())


def colour_of(label: str) -> str:
    """The colour of a name, whatever its hyperparameters and whatever else a page shows."""
    name = re.split(r"[:, ]", label)[0]
    return COLOURS[hashlib.sha256(f"{SALT} {name}".encode()).digest()[0] % len(COLOURS)]


def _draw(axes: Any, curve: Curve, colour: str, place: int) -> None:
    """A line, or points with bars; `place` counts those of the same colour before it."""
    alone = curve.points or len(curve.x) == 1
    marker = "*" if curve.chosen else MARKERS[place % len(MARKERS)] if alone else ""
    size = 13 if curve.chosen else 4.5
    style: dict[str, Any] = {"color": colour, "marker": marker, "label": _plain(curve.label)}
    if not alone:
        axes.plot(curve.x, curve.y, lw=1.8, ls=LINE_STYLES[place % len(LINE_STYLES)], **style)
        return
    bars = {"yerr": curve.error or None, "xerr": curve.x_error or None, "elinewidth": 1}
    axes.errorbar(curve.x, curve.y, lw=0, ms=size, alpha=0.85, **bars, **style)


def grid_to_png(grid: ImageGrid) -> str:
    """The pictures of a grid, side by side with thin white gaps, as a data: URI of a PNG."""
    from matplotlib.image import imsave

    images = grid.images.detach().cpu().float()
    images = images.unsqueeze(2) if images.ndim == 4 else images  # grey: one channel
    rows, columns, channels, height, width = images.shape
    canvas = torch.ones(rows, columns, channels, height + 2, width + 2)
    canvas[..., 1:-1, 1:-1] = images
    sheet = canvas.permute(0, 3, 1, 4, 2).reshape(rows * (height + 2), columns * (width + 2), channels)
    buffer = io.BytesIO()
    imsave(buffer, sheet.clamp(0, 1).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _fit_heights(axes, plot: Plot) -> None:
    """Shows the differences between the curves rather than the common fall of the first epochs."""
    late = [value for curve in plot.curves for value in curve.y[len(curve.y) // 4 :]]
    if len(late) > 1 and max(late) > min(late):
        margin = 0.06 * (max(late) - min(late))
        axes.set_ylim(min(late) - margin, max(late) + margin)


def _make_log(set_scale, axis) -> None:
    """A logarithmic axis with few, plain labels, also where it spans less than a decade."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    set_scale("log")
    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if low > 0 and high / low < 1e3 else (1.0,)  # between the powers of ten, where there is room
    axis.set_major_locator(LogLocator(subs=subs, numticks=9))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # a dollar sign would start a formula


def _inline(svg: str) -> str:
    """Drops the XML prologue, the fixed size in favour of the page's width, and ids that nothing refers to."""
    head, _, body = svg[svg.index("<svg") :].partition(">")
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", body)
    return f"{head}>{body}"
