"""Plots of results as SVG, for pages without scripts: whoever points at a mark reads its numbers."""

import io
import itertools
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from rowmesh.sw.model.performance import PARTS
from rowmesh.sw.results.layer import tolerance

__all__ = [
    "_PART_COLOURS",
    "array_map",
    "energy_bars",
    "error_scatter",
    "link_rooflines",
    "part_bars",
    "roofline",
    "step_bars",
]

# Okabe and Ito's palette, which the colour-blind tell apart
_BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _SKY, _YELLOW, _GREY = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#f0e442",
    "#999999",
)
_PART_COLOURS = dict(zip(PARTS, (_GREY, _YELLOW, _BLUE, _ORANGE, _RED, _PURPLE, _GREEN), strict=True))
_LEVEL_COLOURS = {"dram": _RED, "glb": _ORANGE, "noc": _YELLOW, "spad": _SKY, "pe": _BLUE}
_LEVEL_NAMES = {"dram": "DRAM", "glb": "GLB", "noc": "NoC", "spad": "spad", "pe": "MAC"}
_MOST_LABELS = 24
"""Points that are named in a plot; where there are more, only those that are pointed at are."""

_STYLE: Any = {
    "font.size": 9,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "rowmesh",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
}
_SVG = "http://www.w3.org/2000/svg"
_numbers = itertools.count()


class _Plot:
    """A figure and the text of its marks."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height), layout="constrained")
        self.titles: dict[str, str] = {}
        self.svg = ""

    def title(self, artist: Any, text: str) -> None:
        """Show a text while the mark is pointed at."""
        name = f"mark-{next(_numbers)}"
        artist.set_gid(name)
        self.titles[name] = text

    def render(self) -> None:
        """Make the SVG."""
        out = io.StringIO()
        with warnings.catch_warnings():  # the reader's fonts count, not those of this machine
            warnings.filterwarnings("ignore", message=r".*[Gg]lyph")
            self.figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        ElementTree.register_namespace("", _SVG)
        ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
        root = ElementTree.fromstring(out.getvalue())
        for metadata in root.findall(f"{{{_SVG}}}metadata"):
            root.remove(metadata)
        for element in root.iter():
            text = self.titles.get(element.get("id", ""))
            if text is not None:
                title = ElementTree.Element(f"{{{_SVG}}}title")
                title.text = text
                element.insert(0, title)
        root.set("role", "img")
        self.svg = ElementTree.tostring(root, encoding="unicode")


@contextmanager
def _plot(width: float, height: float) -> Iterator[_Plot]:
    with matplotlib.rc_context(_STYLE):
        plot = _Plot(width, height)
        yield plot
        plot.render()


def _plain(names: Sequence[str]) -> list[str]:
    """Return names in which a dollar is a dollar, not the beginning of a formula."""
    return [name.replace("$", r"\$") for name in names]


def _label(axes: Any, names: Sequence[str], x: Sequence[float], y: Sequence[float]) -> None:
    if len(names) > _MOST_LABELS:
        return
    for name, at_x, at_y in zip(_plain(names), x, y, strict=True):
        axes.annotate(name, (at_x, at_y), xytext=(4, 4), textcoords="offset points", fontsize=7)


def error_scatter(names: Sequence[str], predicted: Sequence[int], rtl: Sequence[int]) -> str:
    """Plot predicted against RTL cycles, and the signed error with its tolerance.

    Parameters
    ----------
    names : sequence of str
    predicted, rtl : sequence of int
        Cycles, a layer each.

    Returns
    -------
    str
        SVG.
    """
    with _plot(9, 3.6) as plot:
        left, right = plot.figure.subplots(1, 2)
        low, high = min(*predicted, *rtl) / 1.5, max(*predicted, *rtl) * 1.5
        left.plot([low, high], [low, high], color=_GREY, linewidth=1)
        errors = [100 * (p - r) / r for p, r in zip(predicted, rtl, strict=True)]
        for axes, y in ((left, predicted), (right, errors)):
            for name, at_x, at_y, p, error in zip(names, rtl, y, predicted, errors, strict=True):
                (mark,) = axes.plot([at_x], [at_y], "o", color=_BLUE, markersize=5, alpha=0.8)
                plot.title(mark, f"{name}: RTL {at_x:,}, predicted {p:,} ({error:+.3f} %)")
            _label(axes, names, rtl, y)
            axes.set_xscale("log")
            axes.set_xlim(low, high)
            axes.set_xlabel("RTL cycles")
        left.set_yscale("log")
        left.set_ylim(low, high)
        left.set_ylabel("predicted cycles")
        x = np.geomspace(low, high, 400)
        allowed = np.array([100 * tolerance(int(at)) / at for at in x])
        for sign in (1, -1):
            right.plot(x, sign * allowed, color=_RED, linewidth=1, linestyle="--")
        right.axhline(0, color=_GREY, linewidth=1)
        limit = max(0.1, 2 * max(map(abs, errors)))
        right.set_ylim(-limit, limit)
        right.set_ylabel("error of the prediction, %")
        right.set_title(f"tolerance {'dashed' if allowed.min() < limit else 'outside the plot'}", fontsize=8)
    return plot.svg


def part_bars(names: Sequence[str], predicted: Sequence[dict[str, int]], rtl: Sequence[dict[str, int]]) -> str:
    """Plot the parts of the cycles, predicted above RTL for each layer; at the right without compute.

    Parameters
    ----------
    names : sequence of str
    predicted, rtl : sequence of dict
        Cycles by part, a layer each; bars are shares of the RTL's total.
    """
    with _plot(9, 1.1 + 0.34 * len(names)) as plot:
        panels = plot.figure.subplots(1, 2, sharey=True)
        for axes, left_out in zip(panels, ((), ("compute",)), strict=True):
            for row, (name, *sides) in enumerate(zip(names, predicted, rtl, strict=True)):
                total = sum(sides[1].values())
                for offset, side, what in ((-0.19, sides[0], "predicted"), (0.19, sides[1], "RTL")):
                    start = 0.0
                    for part in PARTS:
                        share = 100 * side[part] / total
                        if part in left_out or not share:
                            continue
                        (bar,) = axes.barh(
                            row + offset,
                            share,
                            0.34,
                            left=start,
                            color=_PART_COLOURS[part],
                            alpha=0.6 if what == "predicted" else 1.0,
                        )
                        plot.title(bar, f"{name}, {what}: {part} {side[part]:,} cycles ({share:.2f} %)")
                        start += share
            axes.set_xlabel("% of the RTL's cycles" + (", without compute" if left_out else ""))
            axes.grid(axis="y", visible=False)
        panels[0].set_yticks(range(len(names)), _plain(names))
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        handles = [matplotlib.patches.Patch(color=colour, label=part) for part, colour in _PART_COLOURS.items()]
        plot.figure.legend(handles=handles, loc="outside upper center", ncols=len(PARTS), frameon=False)
    return plot.svg


def roofline(names: Sequence[str], intensity: Sequence[float], rate: Sequence[float], pes: int, beat: int) -> str:
    """Plot a roofline.

    Parameters
    ----------
    names : sequence of str
    intensity : sequence of float
        MACs a byte of DRAM, read or written.
    rate : sequence of float
        MACs a cycle.
    pes : int
        The array's limit, MACs a cycle.
    beat : int
        The memory port's limit, bytes a cycle and direction.
    """
    with _plot(6.5, 4) as plot:
        axes = plot.figure.subplots()
        low = min(*intensity, pes / beat / 2) / 2
        high = max(*intensity, pes / beat) * 3
        x = np.geomspace(low, high, 300)
        for width, style, words in ((beat, "-", "one direction"), (2 * beat, "--", "reads and writes at once")):
            axes.plot(
                x, np.minimum(pes, width * x), style, color=_RED, linewidth=1.2, label=f"{width} B a cycle, {words}"
            )
        axes.axhline(pes, color=_GREY, linewidth=1.2, label=f"{pes} PEs")
        for name, at_x, at_y in zip(names, intensity, rate, strict=True):
            (mark,) = axes.plot([at_x], [at_y], "o", color=_BLUE, markersize=5, alpha=0.8)
            plot.title(mark, f"{name}: {at_y:.2f} MACs a cycle, {at_x:.2f} MACs a byte")
        _label(axes, names, intensity, rate)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(min(*rate, pes / 10) / 1.5, pes * 2)
        axes.set_xlabel("MACs a byte of DRAM")
        axes.set_ylabel("MACs a cycle")
        axes.legend(loc="lower right", frameon=False)
    return plot.svg


def energy_bars(names: Sequence[str], spent: Sequence[dict[tuple[str, str], float]], unit: str) -> str:
    """Plot the energy of a MAC by level and type of data.

    Parameters
    ----------
    names : sequence of str
    spent : sequence of dict
        Energy of a useful MAC by (level, type), a layer each.
    unit : str
    """
    with _plot(9, 1.1 + 0.26 * len(names)) as plot:
        axes = plot.figure.subplots()
        for row, (name, energies) in enumerate(zip(names, spent, strict=True)):
            start, total = 0.0, sum(energies.values())
            for (level, kind), value in energies.items():
                if not value:
                    continue
                (bar,) = axes.barh(
                    row, value, 0.7, left=start, color=_LEVEL_COLOURS[level], edgecolor="white", linewidth=0.6
                )
                plot.title(
                    bar, f"{name}: {_LEVEL_NAMES[level]} {kind} {value:.3f} {unit} a MAC ({100 * value / total:.1f} %)"
                )
                start += value
        axes.set_yticks(range(len(names)), _plain(names))
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(f"energy a MAC, {_plain([unit])[0]}")
        axes.grid(axis="y", visible=False)
        handles = [
            matplotlib.patches.Patch(color=colour, label=_LEVEL_NAMES[level])
            for level, colour in _LEVEL_COLOURS.items()
        ]
        plot.figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return plot.svg


def array_map(shares: npt.NDArray[np.float64]) -> str:
    """Plot a share of each PE.

    Parameters
    ----------
    shares : ndarray
        From 0 to 1, shape (rows, cols); row 0 is drawn at the bottom.
    """
    rows, cols = shares.shape
    cell = min(0.3, 5 / max(rows, cols))
    with _plot(1.9 + cell * cols, 0.9 + cell * rows) as plot:
        axes = plot.figure.subplots()
        axes.grid(visible=False)
        colours = matplotlib.colormaps["viridis"]
        for row in range(rows):
            ends = [*(np.flatnonzero(np.diff(shares[row])) + 1), cols]
            for first, end in zip([0, *ends], ends, strict=False):  # neighbours that are alike are one mark
                share = float(shares[row, first])
                patch = matplotlib.patches.Rectangle(
                    (first - 0.5, row - 0.5), end - first, 1, facecolor=colours(share), edgecolor="none"
                )
                axes.add_patch(patch)
                which = f"column {first}" if end == first + 1 else f"columns {first} to {end - 1}"
                plot.title(patch, f"row {row}, {which}: {share:.1%}")
        for lines, count in ((axes.axvline, cols), (axes.axhline, rows)):
            for at in range(1, count):
                lines(at - 0.5, color="white", linewidth=0.5)
        axes.set_xlim(-0.5, cols - 0.5)
        axes.set_ylim(-0.5, rows - 0.5)
        axes.set_aspect("equal")
        axes.set_xlabel("column")
        axes.set_ylabel("row")
        scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), colours)
        plot.figure.colorbar(scale, ax=axes, fraction=0.08)
    return plot.svg


def link_rooflines(names: Sequence[str], intensity: Sequence[float], bounds: Sequence[float], plateau: float) -> str:
    """Plot a roofline for each link, with the level of a number of active PEs.

    Parameters
    ----------
    names : sequence of str
    intensity : sequence of float
        MACs a word of the link.
    bounds : sequence of float
        MACs a cycle at that intensity, if the link were all that limits.
    plateau : float
        MACs a cycle.
    """
    colours = (_RED, _ORANGE, _SKY, _BLUE, _PURPLE, _GREEN)
    with _plot(6.5, 3.6) as plot:
        axes = plot.figure.subplots()
        turns = [plateau * at / bound for at, bound in zip(intensity, bounds, strict=True)]
        low, high = min(*intensity, *turns) / 5, max(*intensity, *turns) * 3
        axes.axhline(plateau, color=_GREY, linewidth=1.2)
        for name, at, bound, turn, colour in zip(names, intensity, bounds, turns, colours, strict=True):
            axes.plot([low, turn], [bound / at * low, plateau], color=colour, linewidth=1.2, label=name)
            (mark,) = axes.plot([at], [min(bound, plateau)], "o", color=colour, markersize=6)
            plot.title(mark, f"{name}: {at:,.2f} MACs a word, at most {bound:,.2f} MACs a cycle")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(plateau / 50, plateau * 2)
        axes.set_xlabel("MACs a word of the link")
        axes.set_ylabel("MACs a cycle")
        axes.legend(loc="lower right", frameon=False)
    return plot.svg


def step_bars(names: Sequence[str], bounds: Sequence[float], pes: int) -> str:
    """Plot bounds that get tighter from step to step, on a logarithmic scale.

    Parameters
    ----------
    names : sequence of str
    bounds : sequence of float
        MACs a cycle.
    pes : int
        The array's limit, drawn as a line.
    """
    with _plot(8, 0.9 + 0.36 * len(names)) as plot:
        axes = plot.figure.subplots()
        low = min(*bounds, pes) / 4
        for row, (name, bound) in enumerate(zip(names, bounds, strict=True)):
            (bar,) = axes.barh(row, bound - low, 0.7, left=low, color=_BLUE if row < 6 else _GREEN)
            plot.title(bar, f"{name}: {bound:,.2f} MACs a cycle")
            axes.annotate(f"{bound:,.2f}", (bound, row), xytext=(4, -3), textcoords="offset points", fontsize=8)
        axes.axvline(pes, color=_RED, linewidth=1, linestyle="--")
        axes.set_xscale("log")
        axes.set_xlim(low, max(bounds) * 50)
        axes.set_yticks(range(len(names)), _plain(names))
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(f"MACs a cycle (dashed: {pes} PEs)")
        axes.grid(axis="y", visible=False)
    return plot.svg
