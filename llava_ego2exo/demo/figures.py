"""Figures of the demo's report, as SVG that takes its colours from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import Ego2ExoError
from .summary import cell, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What is drawn in these becomes the page's own colour, by name; none of them is ever shown.
_INK, _SOFT = "#0a0b01", "#0a0b02"
_SERIES = [f"#0a0c{index:02x}" for index in range(8)]
_NAMES = {_INK: "ink", _SOFT: "soft", **{colour: f"c{index}" for index, colour in enumerate(_SERIES)}}
_DASHES = ("-", "--", "-.", ":")
_STYLE = {
    **{"svg.fonttype": "none", "svg.hashsalt": "ego2exo", "text.parse_math": False, "font.family": "sans-serif"},
    **{"font.size": 9, "axes.titlesize": 9, "axes.titleweight": "bold", "axes.titlelocation": "left"},
    **{"axes.edgecolor": _SOFT, "axes.labelcolor": _INK, "text.color": _INK, "xtick.color": _INK, "ytick.color": _INK},
    **{"axes.spines.top": False, "axes.spines.right": False, "xtick.major.size": 2, "ytick.major.size": 2},
}
POINTS = 150  # of a curve: more are averaged in blocks


def require_matplotlib() -> None:
    """Ask for what the report draws with; to be called before a long run.

    Raises:
        Ego2ExoError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise Ego2ExoError("matplotlib is not installed", "", "pip install 'llava-ego2exo[report]'") from error


def bars(
    panels: Sequence[tuple[str, Mapping[str, Sequence[float]], float]],
    colours: Sequence[int],
    name: str,
    label: str,
    width: float = 3.4,
) -> str:
    """Bars side by side, each panel with the same rows: mean, standard deviation, a dot a seed, and chance dashed.

    Args:
        panels: (title, row -> percent of each seed, chance).
        colours: of each row, by number.
        name: for ids inside the page.
        label: what a screen reader says.
        width: inches.

    Returns:
        An `<svg>` element.
    """
    rows = list(panels[0][1])
    with _drawing(width, 0.25 * len(rows) + 0.55) as figure:
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for place, (title, values, chance) in zip(axes, panels, strict=True):
            for row, (seeds, colour) in enumerate(zip(values.values(), colours, strict=True)):
                _bar(place, row, seeds, _SERIES[colour % 8])
            place.axvline(chance, color=_INK, linewidth=1, linestyle="--", zorder=4)
            place.set_title(title)
            place.set_xlim(0, 100)
            place.set_xticks([0, 50, 100])
            place.set_ylim(len(rows) - 0.5, -0.5)
            place.set_yticks(range(len(rows)), rows)
            place.tick_params(axis="y", length=0)
        return _svg(figure, name, label)


def _bar(axes: Any, row: int, seeds: Sequence[float], colour: str) -> None:
    value = spread(seeds)
    axes.barh(row, value["mean"], height=0.68, color=colour, alpha=0.6, linewidth=0)
    if value["n"] > 1:
        axes.errorbar(value["mean"], row, xerr=value["std"], color=_INK, linewidth=1, capsize=2, zorder=3)
        axes.plot(seeds, [row] * len(seeds), ".", color=_INK, markersize=3, zorder=3)
    # Outside the axes, where no line crosses it.
    axes.text(1.04, row, cell(value), transform=axes.get_yaxis_transform(), va="center", fontsize=8)


def curves(runs: Mapping[str, Sequence[Sequence[tuple[int, float]]]], colours: Sequence[str], name: str) -> str:
    """Training loss by step, a line a seed; a variant has one colour and one dash.

    Args:
        runs: variant -> for each seed (step, loss) pairs.
        colours: names in the order of their colours, as in the bars.
        name: for ids inside the page.
    """
    with _drawing(4.6, 3.0) as figure:
        axes = figure.subplots()
        for variant, seeds in runs.items():
            index = colours.index(variant) if variant in colours else len(colours)
            look = {"color": _SERIES[index % 8], "linestyle": _DASHES[index % 4], "linewidth": 1.3}
            for number, seed in enumerate(seeds):
                steps, losses = zip(*_thinned(seed), strict=True) if seed else ((), ())
                axes.plot(steps, losses, **look, **({"alpha": 0.5} if number else {"label": variant}))
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8, handlelength=3)
        return _svg(figure, name, f"Training loss by step of {', '.join(runs)}")


def _thinned(curve: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` points, each the mean of as many neighbours."""
    size = -(-len(curve) // POINTS)
    blocks = [curve[start : start + size] for start in range(0, len(curve), size or 1)]
    return [tuple(sum(values) / len(block) for values in zip(*block, strict=True)) for block in blocks]


@contextmanager
def _drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of our style, to be drawn and saved inside the block; the user's own settings play no part."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an element for a page: no prolog, ids of its own, colours by the page's variables."""
    from markupsafe import escape

    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True)
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r"font: ([^;\"]*?)([\d.]+px) [^;\"]*", r"font: \1\2 system-ui, sans-serif", text)
    for colour, variable in _NAMES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
