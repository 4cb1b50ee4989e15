"""What the numbers of a report depend on, as tables: where the models differ, and what all share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .table_parts import DASH, Table

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
