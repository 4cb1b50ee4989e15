"""The table that `pairs check` ends with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .checking import KINDS, NOTES, Finding
from .pairs import Pair
from .probing import Probe
from .record import SPLITS


def report(
    pairs: Sequence[Pair], probes: Mapping[str, Probe], findings: Sequence[Finding], shown: int = 5
) -> Iterator[str]:
    """Lines: the first `shown` findings of each kind, what the splits hold, and how often each check failed."""
    for kind in KINDS:
        texts = [f"  {finding.segment}: {finding.text}" for finding in findings if finding.kind == kind]
        if texts:
            yield f"{kind}: {KINDS[kind]}"
            yield from texts[:shown]
            if len(texts) > shown:
                yield f"  and {len(texts) - shown} more"
    yield ""
    yield from _table(["split", "takes", "pairs", "exo views", "ego hours"], _splits(pairs, probes))
    yield ""
    yield from _table(["check", "found", "what"], _checks(findings))


def _splits(pairs: Sequence[Pair], probes: Mapping[str, Probe]) -> Iterator[list[str]]:
    for split in SPLITS:
        part = [pair for pair in pairs if pair.split == split]
        if part:
            hours = sum(_seconds(pair, probes) for pair in part) / 3600
            takes, views = len({pair.take for pair in part}), sum(len(pair.exo) for pair in part)
            yield [split, str(takes), str(len(part)), str(views), f"{hours:.3f}"]


def _seconds(pair: Pair, probes: Mapping[str, Probe]) -> float:
    whole = probes[pair.ego].duration_s
    end = whole if pair.end_s is None else min(pair.end_s, whole)
    return max(end - (pair.start_s or 0.0), 0.0)


def _checks(findings: Sequence[Finding]) -> Iterator[list[str]]:
    for kind, meaning in KINDS.items():
        count = sum(finding.kind == kind for finding in findings)
        yield [kind, f"{count} (note)" if count and kind in NOTES else str(count) if count else "ok", meaning]


def _table(header: list[str], rows: Iterator[list[str]]) -> Iterator[str]:
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
