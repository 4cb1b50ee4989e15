"""A report as Markdown: the tables of the page, its notes and its failures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...common.text import markdown_table
from .failures import SHOWN, Failure, failure_counts
from .tables import TITLES, Table, provenance_tables, tables

# Brackets and underscores only where they would be markup, so that intervals and names stay readable. Bars are escaped
# in tables, the only place where they mean anything.
_MARKUP = re.compile(r"[\\`*~]|\](?=[(\[:])|(?<!\w)_|_(?!\w)")


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
        yield _table(head, rows, len(head))
    yield from _sections(provenance_tables(metrics["provenance"]))
    yield "Questions, replies and frames: `report.html`. All numbers: `metrics.json`."


def _sections(found: Sequence[Table]) -> Iterator[str]:
    section = ""
    for one in found:
        if one.section != section:
            section = one.section
            yield f"## {TITLES[section]}"
        yield _escaped(one.caption)
        yield _table(one.head, one.rows, one.left)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    return markdown_table([*map(_escaped, head)], [[*map(_escaped, row)] for row in rows], left)


def _escaped(text: str) -> str:
    """On one line, and no markup."""
    text = _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")
