"""A matplotlib canvas that becomes an inline `<svg>` of a web page, the same bytes on every call.

Letters stay letters (`svg.fonttype: none`): the reader's own fonts draw them and Japanese needs no font here, so
widths are estimated from East Asian width, never taken from matplotlib's metrics. No date, no address, a fixed
salt, ids that carry the picture's name. One unit of a canvas is one pixel of the page.
"""

from __future__ import annotations

import io
import math
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import matplotlib
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

INK, MUTED, LINE, GRID = "#1b2430", "#5b6573", "#d5dbe3", "#eef1f4"
SIZE = 12.0
Weight = Literal["normal", "bold"]
Side = Literal["left", "center", "right"]
Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels from the lower left corner
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "deshi",
    "text.parse_math": False,
    "font.size": SIZE,
    "hatch.linewidth": 0.8,
}
# Where a label may stand beside its point: across, up, and the side of the words that is held there.
_PLACES: tuple[tuple[float, float, Side], ...] = (
    *(
        (10, 0, "left"),
        (-10, 0, "right"),
        (9, 11, "left"),
        (9, -11, "left"),
        (-9, 11, "right"),
        (-9, -11, "right"),
    ),
    *((0, 15, "center"), (0, -15, "center")),
)


@contextmanager
def settings() -> Iterator[None]:
    """matplotlib's defaults and ours, whatever the user's own matplotlibrc says."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # The browser's fonts draw the letters; that matplotlib's own font lacks them does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def blank(width: float, height: float) -> Canvas:
    """An empty canvas of that many pixels."""
    canvas = Canvas(figsize=(width / 72, height / 72), facecolor="none")
    FigureCanvasSVG(canvas)
    return canvas


def plane(canvas: Canvas, box: Box) -> Axes:
    """Axes of two measured directions, with a faint grid."""
    axes = canvas.add_axes(_share(canvas, box), facecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(color=LINE, labelcolor=MUTED)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def rows(canvas: Canvas, box: Box, count: int, *, scale: bool) -> Axes:
    """Axes of `count` rows, the first on top; with `scale` the horizontal axis is drawn."""
    axes = canvas.add_axes(_share(canvas, box), facecolor="none")
    axes.set_ylim(count - 0.5, -0.5)
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=scale, color=LINE)
    axes.tick_params(left=False, labelleft=False, bottom=scale, labelbottom=scale, color=LINE, labelcolor=MUTED)
    return axes


def beside(
    axes: Axes,
    words: str,
    y: float,
    *,
    end: Literal[0, 1],
    across: float,
    side: Side,
    weight: Weight = "normal",
) -> None:
    """Writes words in row `y`, `across` pixels from the left (0) or right (1) end of the axes."""
    axes.annotate(
        words,
        (end, y),
        (across, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha=side,
        va="center_baseline",
        color=INK,
        weight=weight,
    )


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two positive ends: 1, 2, 5 or, over a wide range, 1, 3 of each power of ten."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    heads = (1, 3) if high / low > 100 else (1, 2, 5)
    return [tick for power in powers for head in heads if low <= (tick := head * 10.0**power) <= high]


def width_of(words: str) -> float:
    """Pixels that words take, by the East Asian width of their letters."""
    return sum(SIZE if unicodedata.east_asian_width(letter) in "WF" else SIZE * 0.56 for letter in words)


def box_of(axes: Axes, x: float, y: float, radius: float) -> Box:
    """What a mark at a data point covers."""
    scale = 72 / axes.figure.dpi
    across, up = (float(pixels) * scale for pixels in axes.transData.transform((x, y)))
    return (across - radius, up - radius, across + radius, up + radius)


def label(axes: Axes, x: float, y: float, words: str, taken: list[Box], *, colour: str, weight: Weight) -> None:
    """Writes words beside a point where they cover least of `taken` and stay inside, and takes that place."""
    width, height = width_of(words) * (1.05 if weight == "bold" else 1.0), SIZE * 1.25
    left, bottom, _, _ = box_of(axes, x, y, 0)
    scale = 72 / axes.figure.dpi
    edges = axes.get_window_extent()
    inside = (edges.x0 * scale, edges.y0 * scale, edges.x1 * scale + 14, edges.y1 * scale + 8)
    choices: list[tuple[float, int, float, float, Side, Box]] = []
    for distance in (0, 14, 28, 44):
        for across, up, side in _PLACES:
            lift = up + math.copysign(distance, up) if up else 0.0
            start = left + across - {"left": 0.0, "right": width, "center": width / 2}[side]
            box = (start, bottom + lift - height / 2, start + width, bottom + lift + height / 2)
            covered = sum(_overlap(box, other) for other in taken)
            outside = width * height - _overlap(box, inside)
            choices.append((covered + 3 * outside + distance / 2, len(choices), across, lift, side, box))
    _, _, across, lift, side, box = min(choices)
    taken.append(box)
    axes.annotate(
        words,
        (x, y),
        (across, lift),
        textcoords="offset points",
        ha=side,
        va="center_baseline",
        color=colour,
        weight=weight,
        annotation_clip=False,
    )


def inline_svg(canvas: Canvas, name: str, title: str, hints: Mapping[str, str] | None = None) -> str:
    """The canvas as `<svg>`: no prolog, no metadata, no font names, ids that no other picture of the page has.

    `hints` says what a mark tells when a pointer rests on it, by the `gid` that the mark was drawn with.
    """
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    for gid, words in (hints or {}).items():
        svg = svg.replace(f'<g id="{gid}">', f"<g><title>{escape(words)}</title>")
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;\"]*(; )?", "", svg)
    svg = re.sub(r"\s*\n\s*", " ", svg[svg.index("<svg") :])
    width, height = (round(side * 72) for side in canvas.get_size_inches())
    opening = (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {width} {height}"'
        f' style="max-width:{width}px;min-width:{round(width * 0.8)}px">'
    )
    return opening + svg[svg.index(">") + 1 :].strip()


def _share(canvas: Canvas, box: Box) -> Box:
    """A box in pixels as matplotlib wants it: left, bottom, width, height in shares of the canvas."""
    width, height = (float(side) * 72 for side in canvas.get_size_inches())
    left, bottom, right, top = box
    return (left / width, bottom / height, (right - left) / width, (top - bottom) / height)


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
