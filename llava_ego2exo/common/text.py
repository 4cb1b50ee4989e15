"""Tables for terminals and Markdown, and lists in messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence


def aligned_table(head: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1, rule: bool = False) -> str:
    """Columns of equal width, two blanks apart: the `left` first to the left, numbers to the right.

    A column with an empty heading qualifies the number before it ("± 0.3", "[1.2, 3.4]") and is aligned to the left.
    """
    lines = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    pads = [str.ljust if place < left or not title else str.rjust for place, title in enumerate(head)]
    if rule:
        lines.insert(1, ["-" * width for width in widths])
    padded = [[pad(cell, width) for pad, cell, width in zip(pads, line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]], left: int | None = None) -> str:
    """A Markdown table whose `left` first columns are aligned to the left; bars inside a cell are escaped."""
    rules = ["-" if left is None else ":--" if place < left else "--:" for place in range(len(head))]
    lines = [head, rules, *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def shorten_list(items: Sequence[str], limit: int = 5) -> str:
    """The first `limit` items, separated by semicolons, and how many more there are."""
    more = f"; and {len(items) - limit} more" if len(items) > limit else ""
    return "; ".join(items[:limit]) + more


def repeated(values: Iterable[str]) -> list[str]:
    """The values that occur more than once, each once, in order of first appearance."""
    return [value for value, count in Counter(values).items() if count > 1]
