"""What is wrong with the lines of a pairs file before any video is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .checking import Finding
from .finding import EGO
from .pair import Pair
from .pair_lines import Scanned


def line_findings(found: Scanned) -> tuple[list[Pair], list[Finding]]:
    """The pairs with names of their own, and a finding for each line that is no pair or repeats a name.

    Args:
        found: the lines.
    """
    findings = []
    for number, wrong in found.faults.items():
        record = found.records.get(number)
        side = _lacking(record)
        kind, text = ("unpaired", f"has no {side}") if side else ("line", "; ".join(wrong))
        findings.append(Finding(kind, _name(record, number), "", f"line {number} {text}"))
    repeated, seen, pairs = found.repeated(), set(), []
    for number, pair in zip(found.lines, found.pairs, strict=True):
        if pair.segment in seen:
            lines = ", ".join(map(str, repeated[pair.segment]))
            findings.append(Finding("segment", pair.segment, "", f"line {number} repeats the name (lines {lines})"))
        else:
            pairs.append(pair)
        seen.add(pair.segment)
    return pairs, findings


def _lacking(record: Any) -> str:
    """Which side alone a record lacks; empty where it lacks neither or both, and so is no half of a pair."""
    if not isinstance(record, Mapping):
        return ""
    missing = [f"{side} view" for side in (EGO, "exo") if record.get(side) in (None, "", {}, [])]
    return missing[0] if len(missing) == 1 else ""


def _name(record: Any, number: int) -> str:
    name = record.get("segment") if isinstance(record, Mapping) else None
    return ascii(name)[1:-1][:80] if isinstance(name, str) and name.strip() else f"line {number}"
