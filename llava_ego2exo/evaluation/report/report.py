"""An evaluation's report: `report.html`, one file that works from disk, `report.md` and `metrics.json`."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...common.files import write_atomic
from ...common.pages import INK, SERIES, SOFT, drawing, svg, templates
from ...common.text import markdown_table
from ...errors import require_package
from ..items import Described, Outcome
from ..stats.metrics import compute_metrics
from .cards import Card, asked_columns, sampled_cards
from .tables import TITLES, Table, failure_tables, group_title, provenance_tables, readable, tables

TEMPLATES = Path(__file__).parent / "templates"
SAMPLES = 8
_BAR_INCHES = 0.15
# Brackets and underscores only where they would be markup, so that intervals and names stay readable. Bars are escaped
# in tables, the only place where they mean anything.
_MARKUP = re.compile(r"[\\`*~]|\](?=[(\[:])|(?<!\w)_|_(?!\w)")


def write_evaluation_report(
    out: str | Path,
    outcomes: Sequence[Outcome],
    described: Sequence[Described],
    provenance: Mapping[str, Any],
    compare_to: str | None = None,
    samples: int = SAMPLES,
) -> Path:
    """Write `metrics.json`, `report.md` and `report.html`, each whole or not at all, the numbers first.

    Args:
        out: the folder, made where it is not there.
        outcomes: of multiple-choice items, of one benchmark.
        described: rows of a description benchmark.
        provenance: all that the numbers depend on, see `compute_metrics`.
        compare_to: the model that differences are taken against; None: the first.
        samples: most questions shown of each model, mode, view and result; fewer where the page would grow too large.

    Returns:
        The page.

    Raises:
        Ego2ExoError: `compare_to` names no model, matplotlib is not installed, or a file cannot be written.
    """
    folder = Path(out)
    metrics = compute_metrics(outcomes, described, provenance, compare_to)
    sections = [*tables(metrics), *failure_tables(outcomes, described)]
    write_atomic(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    write_atomic(folder / "report.md", readable(markdown(metrics, sections)))
    page = _page(metrics, sections, outcomes, described, samples)
    return write_atomic(folder / "report.html", readable(page))


def _page(
    metrics: Mapping[str, Any],
    found: Sequence[Table],
    outcomes: Sequence[Outcome],
    described: Sequence[Described],
    samples: int,
) -> str:
    require_package("matplotlib", "report")
    cards, frames, left_out = sampled_cards(outcomes, described, metrics["compare_to"], samples)
    columns = asked_columns(outcomes, described)
    several = len({mode for _, mode in columns}) > 1
    sections = {one.section: [other for other in found if other.section == one.section] for one in found}
    return templates(TEMPLATES).get_template("report.html").render(
        metrics=metrics, sections=sections, titles=TITLES, charts=list(_charts(metrics)),
        provenance=provenance_tables(metrics["provenance"]),
        cards=cards, frames=frames, samples=samples, left_out=left_out,
        askers=[f"{model}, {mode}" if several and mode else model for model, mode in columns],
        results=_present(cards), categories=sorted({card.item.category for card in cards}),
        what=_what(outcomes, described),
    )  # fmt: skip


def _charts(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(what it shows, drawing) of each mode and view."""
    for number, (mode, view) in enumerate(dict.fromkeys((row["mode"], row["view"]) for row in metrics["accuracy"])):
        rows = [row for row in metrics["accuracy"] if (row["mode"], row["view"]) == (mode, view)]
        label = f"Percent right by category and model, {group_title(mode, view)}; the numbers stand in the table above"
        yield group_title(mode, view), _accuracy_bars(rows, metrics["models"], f"chart{number}", label)


def _present(cards: Sequence[Card]) -> list[str]:
    """Results that the cards have, in the order of the filter."""
    found = {word.split(":")[1] for card in cards for word in card.words}
    order = ("right", "wrong", "unparsed", "failed", "differs", "judged", "unjudged")
    return [result for result in order if result in found]


def _what(outcomes: Sequence[Outcome], described: Sequence[Described]) -> str:
    counts = {
        "question": len({one.item.id for one in outcomes}),
        "description": len({one.items[0].id for one in described}),
    }
    return " and ".join(f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items() if count)


def _accuracy_bars(rows: Sequence[Mapping[str, Any]], models: Sequence[str], name: str, label: str) -> str:
    """An `<svg>` of one mode and view: of each category a bar a model, its interval as whiskers, and chance dashed."""
    categories = list(dict.fromkeys(row["category"] for row in rows))
    drawn = [model for model in models if any(row["model"] == model for row in rows)]
    places = {(row["category"], row["model"]): row for row in rows}
    step = len(drawn) + 0.9
    with drawing(5.2, _BAR_INCHES * step * len(categories) + 0.3 * -(-len(drawn) // 3) + 0.45) as figure:
        axes = figure.subplots()
        for place, category in enumerate(categories):
            for number, model in enumerate(drawn):
                row, colour = places[category, model], SERIES[models.index(model) % len(SERIES)]
                _bar(axes, place * step + number, row, colour, model if place == 0 else None)
            chance, ends = places[category, drawn[0]]["chance"], [place * step - 0.7, place * step + len(drawn) - 0.3]
            if chance is not None:
                axes.plot([chance] * 2, ends, color=SOFT, linewidth=1.2, linestyle=(0, (3, 2)), zorder=4)
        middles = [place * step + (len(drawn) - 1) / 2 for place in range(len(categories))]
        axes.set_yticks(middles, map(_two_lines, categories))
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(step * len(categories) - 0.9, -1.0)
        axes.set_xlim(0, 100)
        axes.set_xlabel("percent right")
        # Named in the order of the bars, so that colour is not the only difference.
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


def _two_lines(text: str) -> str:
    return "\n".join(textwrap.wrap(readable(text), 24, max_lines=2, placeholder=" …"))


def markdown(metrics: Mapping[str, Any], found: Sequence[Table]) -> str:
    """The report as text; what comes from data cannot become markup."""
    parts = [f"# Evaluation: {_escaped(metrics['benchmark'] or 'nothing')}"]
    parts += [] if metrics["models"] else ["Nothing was asked."]
    parts += [f"**Note:** {_escaped(note)}" for note in metrics["notes"]]
    section = ""
    for one in (*found, *provenance_tables(metrics["provenance"])):
        if one.section != section:
            section = one.section
            parts.append(f"## {TITLES[section]}")
        head, rows = [*map(_escaped, one.head)], [[*map(_escaped, row)] for row in one.rows]
        parts += [_escaped(one.caption), markdown_table(head, rows, len(head) if one.texts else one.left)]
    parts.append("Questions, replies and frames: `report.html`. All numbers: `metrics.json`.")
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    """On one line, and no markup."""
    text = _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")
