"""A report as Markdown: the tables of the page, its notes and its failures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .failures import SHOWN, Failure, counted
from .tables import DASH, Table, tables

# What the numbers of a report depend on, as tables: where the models differ, and what all share.

_LONGEST = 300


def provenance_tables(provenance: Mapping[str, Any]) -> list[Table]:
    """First each setting that is not the same for every model, then all the others."""
    own = {str(model["name"]): dict(_flat(_without(model, "name"))) for model in provenance.get("models", ())}
    keys = dict.fromkeys(key for settings in own.values() for key in settings)
    values = [[key, *(settings.get(key, DASH) for settings in own.values())] for key in keys]
    differs = [row for row in values if len(set(row[1:])) > 1]
    shared = [*_flat(_without(provenance, "models")), *(row[:2] for row in values if row not in differs)]
    found = [
        Table("differs", "provenance", "What differs between the models.", ["setting", *own], differs),
        Table("shared", "provenance", "The same for all.", ["setting", "value"], shared),
    ]
    return [one for one in found if one.rows]


def _without(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != name}


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Settings by their path in metrics.json: "settings.dtype"."""
    for key, one in value.items():
        if isinstance(one, Mapping) and one:
            yield from _flat(one, f"{above}{key}.")
        else:
            yield f"{above}{key}", _told(one)


def _told(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else "" if value is None else str(value)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text) - _LONGEST} more characters)"
    return text or ("none" if not isinstance(value, str) else DASH)


TITLES = {
    "summary": "Results",
    "categories": "By category",
    "descriptions": "Descriptions",
    "positions": "Which option is chosen",
    "provenance": "What these numbers depend on",
}
# Brackets and underscores only where they would be markup, so that intervals and names stay readable.
_MARKUP = re.compile(r"[\\`*|~]|\](?=[(\[:])|(?<!\w)_|_(?!\w)")


def markdown(metrics: Mapping[str, Any], failures: Sequence[Failure]) -> str:
    """The report as text; what comes from data cannot become markup."""
    return "\n\n".join(_parts(metrics, failures)) + "\n"


def _parts(metrics: Mapping[str, Any], failures: Sequence[Failure]) -> Iterator[str]:
    yield f"# Evaluation: {escaped(metrics['benchmark'] or 'nothing')}"
    if not metrics["models"]:
        yield "Nothing was asked."
    yield from (f"**Note:** {escaped(note)}" for note in metrics["notes"])
    yield from _sections(tables(metrics))
    if failures:
        yield f"## Failures\n\n{counted(failures)}."
        head = ["what", "video", "models", "outcomes", "cause", "first item"]
        rows = [
            [one.what, one.video, ", ".join(one.models), str(one.count), one.error, one.example]
            for one in failures[:SHOWN]
        ]
        yield _piped(Table("failures", "failures", "", head, rows, len(head)))
    yield from _sections(provenance_tables(metrics["provenance"]))
    yield "Questions, replies and frames: `report.html`. All numbers: `metrics.json`."


def _sections(found: Sequence[Table]) -> Iterator[str]:
    section = ""
    for one in found:
        if one.section != section:
            section = one.section
            yield f"## {TITLES[section]}"
        yield escaped(one.caption)
        yield _piped(one)


def _piped(one: Table) -> str:
    """A number and the column that qualifies it stay two columns; names to the left, numbers to the right."""
    rules = [":--" if place < one.left or one.section == "provenance" else "--:" for place in range(len(one.head))]
    lines = [one.head, rules, *one.rows]
    return "\n".join(f"| {' | '.join(map(escaped, line) if line is not rules else line)} |" for line in lines)


def escaped(text: str) -> str:
    """On one line, and no markup."""
    text = _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")
