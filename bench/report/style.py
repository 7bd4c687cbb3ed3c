"""The style of figures: as wide as a page's text, one colour a row and a method, axes that say their units and better direction.

Colours are Okabe and Ito's (safe for colour-blind readers), a hue a family; within it shade, dash and marker tell rows apart.
"""

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bench.analysis.aggregate import ORDER, Family, Group, ResultRow
from bench.analysis.columns import natural
from bench.records.escape import one_line
from bench.records.metric import Metric

MARK = "bench.report"
_CANVASES: dict[str, Any] = {"svg": FigureCanvasSVG, "pdf": FigureCanvasPdf}
_HUES: dict[Family, str] = {
    **{"deq": "#0072B2", "ode": "#56B4E9", "tied": "#D55E00", "attention": "#E69F00"},
    **{"convolution": "#CC79A7", "recurrent": "#009E73", "other": "#777777"},
}
FAMILY_NAMES: dict[Family, str] = {
    **{"deq": "DEQ", "ode": "Neural ODE", "tied": "weight-tied", "attention": "attention"},
    **{"convolution": "convolution", "recurrent": "recurrent", "other": "other"},
}
_TINTS = (0.0, 0.45, -0.4, 0.25, -0.2)  # towards white where positive, towards black where negative
# One fewer than the tints: the first twenty rows of a family all differ.
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_MARKERS: dict[Family, str] = {
    **{"deq": "osD^v", "ode": "o<>pd", "tied": "sPXp*", "attention": "XPdh8"},
    **{"convolution": "DhHd8", "recurrent": "^v<>D", "other": "8Hp*P"},
}
STYLE: dict[str, Any] = {
    "svg.hashsalt": MARK,  # or element ids are random
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # text as text
    "path.simplify_threshold": 1.0,  # pixels, of long lines: a line a seed would make the page too large
    **{"font.family": "DejaVu Sans", "font.size": 8.0},  # that of matplotlib, see below: the same letters everywhere
    **{"axes.titlesize": 8.0, "axes.titlelocation": "left", "axes.labelsize": 7.0, "axes.linewidth": 0.6},
    **{"xtick.labelsize": 7.0, "ytick.labelsize": 7.0, "xtick.major.width": 0.6, "ytick.major.width": 0.6},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#666666"},
    **{"axes.grid": True, "axes.axisbelow": True, "xtick.color": "#444444", "ytick.color": "#444444"},
    **{"grid.color": "#E4E4E4", "grid.linewidth": 0.5},
    **{"legend.frameon": False, "legend.fontsize": 7.0, "lines.linewidth": 1.3, "lines.markersize": 4.0},
    **{"legend.handlelength": 2.2, "legend.columnspacing": 1.2, "legend.labelspacing": 0.3, "legend.handletextpad": 0.5},
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
}


# A system's DejaVu fonts are of other versions, whose glyphs have other numbers: files would differ by machine.
fontManager.ttflist = [one for one in fontManager.ttflist if "DejaVu" not in one.name]
for _font in sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("DejaVu*.ttf")):
    fontManager.addfont(_font)


@dataclass(frozen=True, kw_only=True)
class LineStyle:
    """How a row is drawn."""

    colour: tuple[float, float, float]
    dash: Any
    marker: str


def assign_styles(groups: Iterable[Group]) -> dict[str, LineStyle]:
    """A style for each label of a suite, the same in all its figures."""
    labels = {row.label: row.family for group in groups for row in group.rows}
    return {
        label: line_style(family, index)
        for family in ORDER
        for index, label in enumerate(sorted((label for label in labels if labels[label] == family), key=natural))
    }


def line_style(family: Family, index: int) -> LineStyle:
    """The style of the row so far in its family: shade, dash and marker change with the index."""
    return LineStyle(
        colour=_tinted(_HUES[family], _TINTS[index % len(_TINTS)]),
        dash=_DASHES[index % len(_DASHES)],
        marker=_MARKERS[family][(index + index // len(_TINTS)) % len(_MARKERS[family])],
    )


def _tinted(hue: str, tint: float) -> tuple[float, float, float]:
    """The colour moved towards white, or towards black where `tint` is negative."""
    towards = 1.0 if tint > 0 else 0.0
    red, green, blue = (part + (towards - part) * abs(tint) for part in to_rgb(hue))
    return red, green, blue


METHOD_HUES = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#7A7A7A")
_METHODS = ("anderson", "picard", "broyden")  # the same hue wherever they are drawn
WIDTH = 5.5  # inches: the text of a page in the style of NeurIPS and ICLR


def method_colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each solver or method of a figure: a solver's own, and the next that is free for any other."""
    hues = dict(zip(_METHODS, METHOD_HUES, strict=False))
    names = list(dict.fromkeys(names))
    own = {name: hue for name in names for solver, hue in hues.items() if solver in name.lower().rpartition(":")[2]}
    free = [hue for hue in METHOD_HUES if hue not in own.values()]
    others = [name for name in names if name not in own]
    shades = {name: (free[place % len(free)], _TINTS[place // len(free) % len(_TINTS)]) for place, name in enumerate(others)}
    return {name: own.get(name) or to_hex(_tinted(*shades[name])) for name in names}


def rendered(figure: Figure, formats: Sequence[str]) -> dict[str, bytes]:
    """The figure in each format; `savefig` would draw it a second time for the layout."""
    images = {}
    for name in formats:
        canvas, content = _CANVASES[name](figure), io.BytesIO()
        dates = {"Date": None} if name == "svg" else {"CreationDate": None, "Producer": None}
        getattr(canvas, f"print_{name}")(content, metadata={"Creator": MARK, **dates})
        images[name] = content.getvalue()
        figure.set_layout_engine("none")  # the next format has the same
    return images


def grid_of(panels: int, columns: int, title: str, height: float, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels in lines of `columns`, each line `height` inches high; its title is as high as it needs."""
    lines, words = math.ceil(panels / columns), textwrap.wrap(one_line(title), 78) or [""]
    figure = Figure(figsize=(WIDTH, 0.4 + height * lines))
    axes = list(figure.subplots(lines, columns, squeeze=False, **shared).flat)
    figure.suptitle("\n".join(map(plain_text, words)), x=0.01, ha="left", fontsize=8.5, fontweight="bold")
    figure.set_figheight(figure.get_figheight() + 0.14 * (len(words) - 1))
    for unused in axes[panels:]:
        unused.set_visible(False)
    return figure, axes[:panels]


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Below the panels, where it covers nothing; a long one makes the figure higher."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=1)
    columns = max(1, min(len(handles), int(WIDTH * 18 // (longest + 7))))
    lines = math.ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + 0.15 * lines)
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns)


def plain_text(text: str) -> str:
    """Text of which nothing is mathematics, and all can be seen."""
    return one_line(text).replace("$", r"\$")


def span(values: Iterable[float]) -> str:
    """The least and the largest with two digits, or the one where they agree."""
    ordered = sorted(values)
    low, high = (f"{value:.2g}" for value in (ordered[0], ordered[-1]))
    return low if low == high else f"{low} to {high}"


def row_handle(row: ResultRow, style: LineStyle, marker: bool = False) -> Line2D:
    """A row's entry in a legend, with how many of its runs ended ok where not all did."""
    label = row.label + (f" ({len(row.ok)}/{len(row.finals)} ok)" if row.failed else "")
    how: dict[str, Any] = {"linestyle": "none", "marker": style.marker} if marker else {"linestyle": style.dash}
    return Line2D([], [], color=style.colour, label=plain_text(label), **how)


def axis_label(name: str, unit: str, better: str | None) -> str:
    """What an axis shows, its unit and the better direction."""
    direction = {"lower": ", ↓ better", "higher": ", ↑ better"}.get(better or "", "")
    return plain_text(f"{name.replace('_', ' ')}{f' [{unit}]' if unit and unit != '1' else ''}{direction}")


def reference_lines(axes: Axes, metric: Metric, named: bool = True) -> None:
    """Chance and optimum as dashed lines, if `named` with their names at the right edge, outside the data."""
    log = axes.get_yscale() == "log"
    for name, value in (("chance", metric.chance), ("optimum", metric.optimum)):
        if value is not None and (value > 0 or not log):
            axes.axhline(value, color="#777777", linestyle=(0, (4, 3)), linewidth=0.8, zorder=1)
            if named:
                axes.text(1.01, value, name, transform=axes.get_yaxis_transform(), va="center", fontsize=6.5, color="#555555")


def log_axis(axes: Axes, which: str) -> None:
    """A log axis whose ticks are numbers one can read: 0.5, 2, 30, and powers of ten beyond."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    decades = math.log10(high / low)
    if decades > 1.5:  # two numbers a decade leave room for those of four digits
        steps: tuple[float, ...] = (1.0,) if decades > 2.5 else (1.0, 3.0)
    else:
        steps = (1.0, 2.0, 5.0) if decades > 0.7 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    if decades > 0.25:
        axis.set_major_locator(LogLocator(subs=steps, numticks=12))
    else:  # less than a factor of two: the log axis is as good as linear
        axis.set_major_locator(MaxNLocator(4))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_tick))


def _tick(value: float, _: int | None = None) -> str:
    if value <= 0:
        return "0"
    exponent = math.floor(math.log10(value) + 1e-9)
    if -4 <= exponent < 5:
        return f"{value:,.6g}"
    mantissa, power = value / 10**exponent, rf"10^{{{exponent}}}"
    return f"${power}$" if abs(mantissa - 1) < 1e-6 else rf"${mantissa:.3g}\times{power}$"
