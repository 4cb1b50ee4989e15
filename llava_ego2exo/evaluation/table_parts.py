"""What tables of an evaluation are made of: how a number, a difference and an interval are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
