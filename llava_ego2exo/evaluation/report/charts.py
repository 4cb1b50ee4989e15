"""Bars of accuracy by category and model, as SVG in the page's colours."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ...pages.drawing import INK, SERIES, SOFT, drawing, svg
from .tables import readable

_THICK = 0.15  # inches a bar


def accuracy_bars(rows: Sequence[Mapping[str, Any]], models: Sequence[str], name: str, label: str) -> str:
    """Categories below each other, in each a bar a model with its interval as whiskers, and chance dashed.

    Args:
        rows: of `metrics["accuracy"]`, of one mode and view.
        models: all of the run, so that each keeps its colour.
        name: for ids inside the page.
        label: what a screen reader says.

    Returns:
        An `<svg>` element.
    """
    categories = list(dict.fromkeys(row["category"] for row in rows))
    drawn = [model for model in models if any(row["model"] == model for row in rows)]
    places = {(row["category"], row["model"]): row for row in rows}
    step = len(drawn) + 0.9
    with drawing(5.2, _THICK * step * len(categories) + 0.3 * -(-len(drawn) // 3) + 0.45) as figure:
        axes = figure.subplots()
        for place, category in enumerate(categories):
            for number, model in enumerate(drawn):
                row, colour = places[category, model], SERIES[models.index(model) % len(SERIES)]
                _bar(axes, place * step + number, row, colour, model if place == 0 else None)
            _chance(axes, place * step, len(drawn), places[category, drawn[0]])
        middles = [place * step + (len(drawn) - 1) / 2 for place in range(len(categories))]
        axes.set_yticks(middles, map(_folded, categories))
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(step * len(categories) - 0.9, -1.0)
        axes.set_xlim(0, 100)
        axes.set_xlabel("percent right")
        # Named in the order of the bars, so that colour is not all that tells them apart.
        figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=8, handlelength=1.2, columnspacing=1.2)
        return svg(figure, name, label)


def _bar(axes: Any, place: float, row: Mapping[str, Any], colour: str, model: str | None) -> None:
    value = row["accuracy"]
    axes.barh(place, value or 0.0, height=0.8, color=colour, alpha=0.75, linewidth=0, label=model and readable(model))
    if value is None:
        axes.text(1, place, "no questions", va="center", fontsize=7)
    elif row["interval"]:
        low, high = row["interval"]
        axes.errorbar(value, place, xerr=[[value - low], [high - value]], color=INK, linewidth=1, capsize=2, zorder=3)


def _chance(axes: Any, first: float, bars: int, row: Mapping[str, Any]) -> None:
    if row["chance"] is not None:
        ends = [first - 0.7, first + bars - 0.3]
        axes.plot([row["chance"]] * 2, ends, color=SOFT, linewidth=1.2, linestyle=(0, (3, 2)), zorder=4)


def _folded(text: str) -> str:
    """A long name on two lines."""
    text = readable(text)
    return "\n".join(textwrap.wrap(text, 24, max_lines=2, placeholder=" …"))
