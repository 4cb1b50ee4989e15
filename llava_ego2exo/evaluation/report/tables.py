"""An evaluation's tables, made once from its metrics and shown on a terminal, in Markdown and on a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..stats.rows import ALL

# What tables of an evaluation are made of: how a number, a difference and an interval are written.

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


@dataclass(frozen=True)
class Table:
    """One table.

    Args:
        name: an id, unique among the tables of a page.
        section: what it is about: "summary", "categories", "positions", "descriptions".
        caption: what the numbers are.
        head: of the columns.
        rows: texts, as many a row as `head` has.
        left: how many of the first columns are names and not numbers.
        soft: columns that only qualify the number before them.
    """

    name: str
    section: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    soft: frozenset[int] = frozenset()


def readable(text: str) -> str:
    """Without what no file in UTF-8 can hold, or no page: data and replies hold anything."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def number(value: float | None) -> str:
    """With one decimal."""
    return DASH if value is None else f"{value:.1f}"


def signed(value: float | None) -> str:
    """A difference in points, with a real minus sign; no sign where nothing differs."""
    return DASH if value is None else "0.0" if abs(value) < 0.05 else f"{value:+.1f}".replace("-", MINUS)


def span(interval: Sequence[float] | None, show: Any = number) -> str:
    """An interval."""
    return DASH if interval is None else f"[{show(interval[0])}, {show(interval[1])}]"


def against(metrics: Mapping[str, Any]) -> str:
    """What differences are taken against, in words."""
    return f"difference: points against {metrics['compare_to']}, on the same items"


def level(metrics: Mapping[str, Any]) -> str:
    """What the brackets are, in words."""
    return f"in brackets: {100 * metrics['level']:.0f}% interval, clustered by video"


def aligned(one: Table) -> str:
    """Columns of one width, names to the left, numbers to the right."""
    lines = [one.head, *one.rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(one.head))]
    pads = [str.ljust if place < one.left or place in one.soft else str.rjust for place in range(len(widths))]
    padded = [[pad(text, width) for pad, text, width in zip(pads, line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def table_of(name: str, section: str, caption: str, head: Sequence[str], rows: Any, left: int) -> Table:
    """Columns without a heading of their own qualify the one before."""
    soft = frozenset(place for place, text in enumerate(head) if not text)
    return Table(name, section, f"{caption}.", head, rows, left, soft)


# Tables of marked descriptions.


def described_tables(metrics: Mapping[str, Any]) -> Iterator[Table]:
    """One table a view: category x aspect x model, or only aspect x model where there is one category."""
    several = len(metrics["models"]) > 1
    told = f"; {against(metrics)}" if several else ""
    for view in dict.fromkeys(row["view"] for row in metrics["descriptions"]):
        rows = [row for row in metrics["descriptions"] if row["view"] == view]
        # One category is the same as all of them.
        single = len({row["category"] for row in rows}) == 2
        names = ["aspect", "model"] if single else ["category", "aspect", "model"]
        shown = _in_order([row for row in rows if not single or row["category"] == ALL], names)
        cells = [
            [
                *(row[name] for name in names),
                *(number(row["mean"]), span(row["interval"])),
                *(_gap_tables_described(row) if several else ()),
                *(str(row[name]) for name in ("n", "judged", "missing", "failed")),
            ]
            for row in shown
        ]
        head = [*names, "mark", "", *(["difference", ""] if several else []), "n", "judged", "missing", "failed"]
        caption = (
            f"Mean mark times 20, of 100{f', {view} view' if view else ''}; a missing mark is left out, a failed row "
            f"counts as 0; {level(metrics)}"
        )
        yield table_of(f"descriptions-{view or 'one'}", "descriptions", caption + told, head, cells, len(names))


def _gap_tables_described(row: Mapping[str, Any]) -> list[str]:
    """The difference; nothing for the model that others are compared with."""
    return [signed(row["difference"]), span(row["difference_interval"], signed)] if row["against"] else ["", ""]


def _in_order(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Mapping[str, Any]]:
    """Sorted by these columns, each in the order in which its values first appear."""
    order = {name: list(dict.fromkeys(row[name] for row in rows)) for name in names}
    return sorted(rows, key=lambda row: [order[name].index(row[name]) for name in names])


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
