"""An evaluation's report: `report.html`, one file that works from disk, `report.md` and `metrics.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ...common.files import write_atomic
from ...pages.templating import templates
from ..items import Described, Outcome
from ..stats.metrics import compute_metrics
from .cards import asked_columns, sampled_cards
from .failures import SHOWN, Failure, failure_counts, failures
from .markdown import markdown
from .tables import MINUS, TITLES, Table, group_title, provenance_tables, readable, tables

TEMPLATES = Path(__file__).parent / "templates"
SAMPLES = 8


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
        failed: what `failures.failures` gave.
        outcomes: of multiple-choice items.
        described: rows of descriptions.
        samples: as for `write_evaluation_report`.
    """
    from ...pages.drawing import require_matplotlib

    require_matplotlib()
    cards, frames, left_out = sampled_cards(outcomes, described, found["compare_to"], samples)
    columns = asked_columns(outcomes, described)
    several = len({mode for _, mode in columns}) > 1
    sections: dict[str, list[dict[str, Any]]] = {}
    for one in tables(found):
        sections.setdefault(one.section, []).append(_table(one))
    html = templates(TEMPLATES).get_template("report.html").render(
        metrics=found, sections=sections, titles=TITLES, charts=list(_charts(found)),
        provenance=[_table(one) for one in provenance_tables(found["provenance"])],
        failures=failed[:SHOWN], counted=failure_counts(failed),
        cards=cards, frames=frames, samples=samples, left_out=left_out,
        askers=[f"{model}, {mode}" if several and mode else model for model, mode in columns],
        results=_present(cards), categories=sorted({card.category for card in cards}), what=_what(outcomes, described),
    )  # fmt: skip
    return readable(html)


def _table(one: Table) -> dict[str, Any]:
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
    from .charts import accuracy_bars

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
