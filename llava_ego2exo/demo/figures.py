"""Figures of the demo's report, as SVG that takes its colours from the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..pages.drawing import INK, SERIES, drawing, svg
from .results import cell, spread

_DASHES = ("-", "--", "-.", ":")
POINTS = 150  # of a curve: more are averaged in blocks


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
    with drawing(width, 0.25 * len(rows) + 0.55) as figure:
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for place, (title, values, chance) in zip(axes, panels, strict=True):
            for row, (seeds, colour) in enumerate(zip(values.values(), colours, strict=True)):
                _bar(place, row, seeds, SERIES[colour % 8])
            place.axvline(chance, color=INK, linewidth=1, linestyle="--", zorder=4)
            place.set_title(title)
            place.set_xlim(0, 100)
            place.set_xticks([0, 50, 100])
            place.set_ylim(len(rows) - 0.5, -0.5)
            place.set_yticks(range(len(rows)), rows)
            place.tick_params(axis="y", length=0)
        return svg(figure, name, label)


def _bar(axes: Any, row: int, seeds: Sequence[float], colour: str) -> None:
    value = spread(seeds)
    axes.barh(row, value["mean"], height=0.68, color=colour, alpha=0.6, linewidth=0)
    if value["n"] > 1:
        axes.errorbar(value["mean"], row, xerr=value["std"], color=INK, linewidth=1, capsize=2, zorder=3)
        axes.plot(seeds, [row] * len(seeds), ".", color=INK, markersize=3, zorder=3)
    # Outside the axes, where no line crosses it.
    axes.text(1.04, row, cell(value), transform=axes.get_yaxis_transform(), va="center", fontsize=8)


def curves(runs: Mapping[str, Sequence[Sequence[tuple[int, float]]]], colours: Sequence[str], name: str) -> str:
    """Training loss by step, a line a seed; a variant has one colour and one dash.

    Args:
        runs: variant -> for each seed (step, loss) pairs.
        colours: names in the order of their colours, as in the bars.
        name: for ids inside the page.
    """
    with drawing(4.6, 3.0) as figure:
        axes = figure.subplots()
        for variant, seeds in runs.items():
            index = colours.index(variant) if variant in colours else len(colours)
            look = {"color": SERIES[index % 8], "linestyle": _DASHES[index % 4], "linewidth": 1.3}
            for number, seed in enumerate(seeds):
                steps, losses = zip(*_thinned(seed), strict=True) if seed else ((), ())
                axes.plot(steps, losses, **look, **({"alpha": 0.5} if number else {"label": variant}))
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8, handlelength=3)
        return svg(figure, name, f"Training loss by step of {', '.join(runs)}")


def _thinned(curve: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` points, each the mean of as many neighbours."""
    size = -(-len(curve) // POINTS)
    blocks = [curve[start : start + size] for start in range(0, len(curve), size or 1)]
    return [tuple(sum(values) / len(block) for values in zip(*block, strict=True)) for block in blocks]
