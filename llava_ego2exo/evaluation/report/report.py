"""An evaluation's report: `report.html`, one file that works from disk, `report.md` and `metrics.json`."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ...common.files import write_atomic
from ...common.pages import INK, SERIES, SOFT, drawing, svg, templates
from ...common.text import markdown_table
from ...errors import require_package
from ..items import Described, Outcome
from ..stats.metrics import compute_metrics
from .cards import asked_columns, sampled_cards
from .tables import (
    MINUS,
    SHOWN,
    TITLES,
    Failure,
    Table,
    failure_counts,
    failures,
    group_title,
    provenance_tables,
    readable,
    tables,
)

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
        Ego2ExoError: outcomes contradict each other, matplotlib is not installed, or a file cannot be written.
    """
    folder = Path(out)
    found = compute_metrics(outcomes, described, provenance, compare_to)
    failed = failures(outcomes, described)
    write_atomic(folder / "metrics.json", json.dumps(found, indent=1) + "\n")
    write_atomic(folder / "report.md", readable(markdown(found, failed)))
    return write_atomic(folder / "report.html", evaluation_page(found, failed, outcomes, described, samples))


def evaluation_page(
    found: Mapping[str, Any],
    failed: Sequence[Failure],
    outcomes: Sequence[Outcome],
    described: Sequence[Described],
    samples: int = SAMPLES,
) -> str:
    """The page as text.

    Args:
        found: what `compute_metrics` gave for these outcomes.
        failed: what `failures` gave.
        outcomes: of multiple-choice items.
        described: rows of descriptions.
        samples: as for `write_evaluation_report`.
    """
    require_package("matplotlib", "report")
    cards, frames, left_out = sampled_cards(outcomes, described, found["compare_to"], samples)
    columns = asked_columns(outcomes, described)
    several = len({mode for _, mode in columns}) > 1
    sections: dict[str, list[dict[str, Any]]] = {}
    for one in tables(found):
        sections.setdefault(one.section, []).append(_page_table(one))
    html = templates(TEMPLATES).get_template("report.html").render(
        metrics=found, sections=sections, titles=TITLES, charts=list(_charts(found)),
        provenance=[_page_table(one) for one in provenance_tables(found["provenance"])],
        failures=failed[:SHOWN], counted=failure_counts(failed),
        cards=cards, frames=frames, samples=samples, left_out=left_out,
        askers=[f"{model}, {mode}" if several and mode else model for model, mode in columns],
        results=_present(cards), categories=sorted({card.category for card in cards}), what=_what(outcomes, described),
    )  # fmt: skip
    return readable(html)


def _page_table(one: Table) -> dict[str, Any]:
    """For the page: rows in groups of one first name, and numbers together with what qualifies them."""
    columns = [place for place, title in enumerate(one.head) if title]
    paired = {place for place in columns if place + 1 < len(one.head) and not one.head[place + 1]}
    rows = [[(row[place], row[place + 1] if place in paired else "") for place in columns] for row in one.rows]
    grouped = one.left > 1 and one.section != "provenance"
    groups = groupby(rows, key=lambda row: row[0][0]) if grouped else (("", [row]) for row in rows)
    return {
        "name": one.name,
        "caption": one.caption,
        "head": [one.head[place] for place in columns],
        "left": one.left if one.section != "provenance" else 1,
        "wide": [_width(row[place][1] for row in rows) for place in range(len(columns))],
        "groups": [list(members) for _, members in groups],
        "grouped": grouped,
    }


def _width(texts: Iterable[str]) -> float:
    """Of the longest one, in widths of a digit, so that the numbers before them stand below each other."""
    wide = f"0123456789+{MINUS}"
    return max((sum(1.0 if sign in wide else 0.5 for sign in text) for text in texts), default=0.0)


def _charts(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(what it shows, drawing) of each mode and view."""
    for number, (mode, view) in enumerate(dict.fromkeys((row["mode"], row["view"]) for row in found["accuracy"])):
        rows = [row for row in found["accuracy"] if (row["mode"], row["view"]) == (mode, view)]
        label = f"Percent right by category and model, {group_title(mode, view)}; the numbers stand in the table above"
        yield group_title(mode, view), accuracy_bars(rows, found["models"], f"chart{number}", label)


def _present(cards: Sequence[Any]) -> list[str]:
    """Results that the cards have, in the order of the filter."""
    found = {word.split(":")[1] for card in cards for word in card.words}
    order = ("right", "wrong", "unparsed", "failed", "differs", "judged", "unjudged")
    return [result for result in order if result in found]


def _what(outcomes: Sequence[Outcome], described: Sequence[Described]) -> str:
    """Numbers of questions and descriptions."""
    counts = {
        "question": len({one.item.id for one in outcomes}),
        "description": len({one.items[0].id for one in described}),
    }
    return " and ".join(f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items() if count)


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
    with drawing(5.2, _BAR_INCHES * step * len(categories) + 0.3 * -(-len(drawn) // 3) + 0.45) as figure:
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


def markdown(metrics: Mapping[str, Any], failures: Sequence[Failure]) -> str:
    """The report as text; what comes from data cannot become markup."""
    return "\n\n".join(_parts(metrics, failures)) + "\n"


def _parts(metrics: Mapping[str, Any], failures: Sequence[Failure]) -> Iterator[str]:
    yield f"# Evaluation: {_escaped(metrics['benchmark'] or 'nothing')}"
    if not metrics["models"]:
        yield "Nothing was asked."
    yield from (f"**Note:** {_escaped(note)}" for note in metrics["notes"])
    yield from _sections(tables(metrics))
    if failures:
        yield f"## Failures\n\n{failure_counts(failures)}."
        head = ["what", "video", "models", "outcomes", "cause", "first item"]
        rows = [
            [one.what, one.video, ", ".join(one.models), str(one.count), one.error, one.example]
            for one in failures[:SHOWN]
        ]
        yield _markdown_table(head, rows, len(head))
    yield from _sections(provenance_tables(metrics["provenance"]))
    yield "Questions, replies and frames: `report.html`. All numbers: `metrics.json`."


def _sections(found: Sequence[Table]) -> Iterator[str]:
    section = ""
    for one in found:
        if one.section != section:
            section = one.section
            yield f"## {TITLES[section]}"
        yield _escaped(one.caption)
        yield _markdown_table(one.head, one.rows, one.left)


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    return markdown_table([*map(_escaped, head)], [[*map(_escaped, row)] for row in rows], left)


def _escaped(text: str) -> str:
    """On one line, and no markup."""
    text = _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")
