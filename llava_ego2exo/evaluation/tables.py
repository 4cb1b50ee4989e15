"""An evaluation's tables, made once from its metrics and shown on a terminal, in Markdown and on a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .metrics_checks import ALL
from .table_parts import DASH, Table, against, aligned, level, number, signed, span, table_of
from .tables_described import described_tables

Rows = Sequence[Mapping[str, Any]]


def table(metrics: Mapping[str, Any]) -> str:
    """All tables as plain text, and the notes."""
    parts = [f"{one.caption}\n\n{aligned(one)}" for one in tables(metrics)]
    parts += [f"note: {note}" for note in metrics["notes"]]
    return "\n\n".join(parts) or "nothing was asked"


def tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Those that have rows: summary, categories, descriptions, positions."""
    found = [_summary(metrics), *_categories(metrics), *described_tables(metrics), _positions(metrics)]
    return [one for one in found if one.rows]


def _summary(metrics: Mapping[str, Any]) -> Table:
    rows = [row for row in metrics["accuracy"] if row["category"] == ALL]
    names = _names(rows)
    gaps = _gaps(metrics)
    judged = ["judged"] if any(row["judged"] for row in rows) else []
    head = [*names, "right", "", *_gap_head(metrics), "n", "videos", "parsed", "unparsed", "failed", *judged]
    cells = [
        [
            *(row[name] for name in names),
            *(number(row["accuracy"]), span(row["interval"]), *_gap(metrics, row, gaps)),
            *(str(row[name]) for name in ("n", "videos", "parsed", "unparsed", "failed", *judged)),
        ]
        for row in rows
    ]
    caption = f"Percent right over all questions; {level(metrics)}"
    return table_of("summary", "summary", caption + _told(metrics), head, cells, len(names))


def _categories(metrics: Mapping[str, Any]) -> Iterator[Table]:
    gaps = _gaps(metrics)
    head = ["category", "model", "right", "", *_gap_head(metrics), "chance", "n", "unparsed", "failed"]
    for mode, view in dict.fromkeys((row["mode"], row["view"]) for row in metrics["accuracy"]):
        rows = [row for row in metrics["accuracy"] if (row["mode"], row["view"]) == (mode, view)]
        cells = [
            [
                *(row["category"], row["model"], number(row["accuracy"]), span(row["interval"])),
                *(*_gap(metrics, row, gaps), number(row["chance"])),
                *(str(row[name]) for name in ("n", "unparsed", "failed")),
            ]
            for category in dict.fromkeys(row["category"] for row in rows)
            for row in rows
            if row["category"] == category
        ]
        caption = f"Percent right by category, {asked(mode, view)}; {level(metrics)}{_told(metrics)}"
        yield table_of(f"categories-{mode}-{view or 'one'}", "categories", caption, head, cells, 2)


def _positions(metrics: Mapping[str, Any]) -> Table:
    rows = metrics["positions"]
    names = _names(rows)
    keys = sorted(dict.fromkeys(row["key"] for row in rows), key=lambda key: (len(key), key))
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        cell = f"{number(row['picked_share'])} ({number(row['right_share'])})"
        found.setdefault(tuple(row[name] for name in names), {})[row["key"]] = cell
    caption = (
        "Percent of the parsed replies that choose each option; in parentheses, percent of the questions whose right "
        "option it is"
    )
    cells = [[*group, *(row.get(key, DASH) for key in keys)] for group, row in found.items()]
    return table_of("positions", "positions", caption, [*names, *keys], cells, len(names))


def asked(mode: str, view: str) -> str:
    """How and on what, in words."""
    return f"mode {mode}" + (f", {view} view" if view else "")


def _names(rows: Rows) -> list[str]:
    """The columns that tell rows apart: model always, mode and view where there is a choice."""
    return ["model", *(name for name in ("mode", "view") if any(row[name] != rows[0][name] for row in rows))]


def _gap_head(metrics: Mapping[str, Any]) -> list[str]:
    return ["difference", ""] if len(metrics["models"]) > 1 else []


def _told(metrics: Mapping[str, Any]) -> str:
    return f"; {against(metrics)}" if _gap_head(metrics) else ""


def _gaps(metrics: Mapping[str, Any]) -> dict[tuple[str, ...], Mapping[str, Any]]:
    return {tuple(row[name] for name in _KEY): row for row in metrics["differences"]}


def _gap(metrics: Mapping[str, Any], row: Mapping[str, Any], gaps: Mapping[tuple[str, ...], Any]) -> list[str]:
    if not _gap_head(metrics):
        return []
    found = gaps.get(tuple(row[name] for name in _KEY))
    return ["", ""] if found is None else [signed(found["difference"]), span(found["interval"], signed)]


_KEY = ("model", "mode", "view", "category")
