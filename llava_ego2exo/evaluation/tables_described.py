"""Tables of marked descriptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .metrics_checks import ALL
from .table_parts import Table, against, level, number, signed, span, table_of


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
                *(_gap(row) if several else ()),
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


def _gap(row: Mapping[str, Any]) -> list[str]:
    """The difference; nothing for the model that others are compared with."""
    return [signed(row["difference"]), span(row["difference_interval"], signed)] if row["against"] else ["", ""]


def _in_order(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Mapping[str, Any]]:
    """Sorted by these columns, each in the order in which its values first appear."""
    order = {name: list(dict.fromkeys(row[name] for row in rows)) for name in names}
    return sorted(rows, key=lambda row: [order[name].index(row[name]) for name in names])
