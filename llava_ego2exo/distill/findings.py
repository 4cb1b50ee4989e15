"""Faults of a set of pairs: in the lines of its file, in its videos, and in the teacher's answers about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..video.probe import Probe
from .pairs.build import leaks
from .pairs.file import PairLines
from .pairs.pair import EGO, Pair
from .teach.job import CUT, EMPTY, REPEATS
from .teach.store import Answer

# Kind of finding -> its meaning in the report; each has its own paragraph in docs/pairs.md.
KINDS = {
    "line": "lines of the pairs file that are no pair",
    "segment": "repeated segments",
    "unreadable": "files that are missing or do not decode",
    "range": "segments that reach outside a video",
    "ego shorter": "ego clips shorter than an exo view",
    "exo shorter": "exo views shorter than the ego clip",
    "unpaired": "files of a segment without its ego or exo",
    "duplicate": "the same video twice",
    "leakage": "takes or videos in several splits",
    "answer": "answers that are empty, cut, repeating or missing",
    "rate": "views with another frame rate (no fault)",
}
NOTES = frozenset({"rate"})
# These are about lines and files of no pair, though a pair may have the same segment.
_OF_NO_PAIR = frozenset({"line", "segment", "unpaired"})
_FLAGS = {EMPTY: "is empty", CUT: "was cut by the length limit", REPEATS: "repeats itself"}


@dataclass(frozen=True)
class Finding:
    """A fault, or (kind in `NOTES`) a remark.

    Args:
        kind: key of `KINDS`.
        segment: of the pair.
        view: to drop; "ego" or empty: drop the pair.
        text: for the report.
    """

    kind: str
    segment: str
    view: str
    text: str

    @property
    def is_fault(self) -> bool:
        return self.kind not in NOTES


def by_kind(findings: Iterable[Finding]) -> list[Finding]:
    """Findings in the order of `KINDS`; stable within a kind."""
    order = list(KINDS)
    return sorted(findings, key=lambda finding: order.index(finding.kind))


def clean(pairs: Sequence[Pair], findings: Sequence[Finding]) -> list[Pair]:
    """The pairs without what is at fault: a view, or the pair if its ego or every view is."""
    faults: dict[str, set[str]] = {}
    for finding in findings:
        if finding.is_fault and finding.kind not in _OF_NO_PAIR:
            faults.setdefault(finding.segment, set()).add(finding.view or EGO)
    kept = []
    for pair in pairs:
        bad = faults.get(pair.segment, set())
        exo = {view: path for view, path in pair.exo.items() if view not in bad}
        if EGO not in bad and exo:
            kept.append(replace(pair, exo=exo))
    return kept


def line_findings(lines: PairLines) -> tuple[list[Pair], list[Finding]]:
    """The pairs, each segment once, and the findings in the other lines."""
    findings = []
    for number, faults in lines.faults.items():
        record = lines.records.get(number)
        record = record if isinstance(record, Mapping) else {}
        lacking = [f"{side} view" for side in (EGO, "exo") if record.get(side) in (None, "", {}, [])]
        kind, text = ("unpaired", f"has no {lacking[0]}") if len(lacking) == 1 else ("line", "; ".join(faults))
        findings.append(Finding(kind, _segment(record) or f"line {number}", "", f"line {number} {text}"))
    repeated, pairs = lines.repeated(), {}
    for number, pair in zip(lines.numbers, lines.pairs, strict=True):
        if pair.segment in pairs:
            all_lines = ", ".join(map(str, repeated[pair.segment]))
            findings.append(Finding("segment", pair.segment, "", f"line {number} repeats it (lines {all_lines})"))
        pairs.setdefault(pair.segment, pair)
    return list(pairs.values()), findings


def _segment(record: Mapping[str, Any]) -> str:
    name = record.get("segment")
    return ascii(name)[1:-1][:80].strip() if isinstance(name, str) else ""


def unpaired_findings(pairs: Sequence[Pair], unpaired: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """Segments of a folder that lack a side, unless a pair uses their files."""
    used = {path for pair in pairs for path in pair.files.values()}
    return [
        Finding("unpaired", segment, "", f"{path} has no {'exo view' if view == EGO else 'ego view'} beside it")
        for segment, views in unpaired.items()
        for view, path in views.items()
        if path not in used
    ]


def video_findings(pairs: Sequence[Pair], probes: Mapping[str, Probe], tolerance_s: float = 0.5) -> list[Finding]:
    """Findings in the videos of pairs.

    Args:
        pairs: to check.
        probes: by path, for every file of the pairs.
        tolerance_s: by how much lengths may differ and a segment may reach past a video's end, in seconds.
    """
    findings: list[Finding] = []
    for pair in pairs:
        findings += (
            Finding("unreadable", pair.segment, view, f"{view} {path} {probes[path].error}")
            for view, path in pair.files.items()
            if probes[path].error
        )
        if not probes[pair.ego].error:
            findings += _lengths_and_rates(pair, probes, tolerance_s)
    return [*findings, *_duplicates(pairs, probes), *_leakage(pairs, probes)]


def _lengths_and_rates(pair: Pair, probes: Mapping[str, Probe], tolerance_s: float) -> Iterator[Finding]:
    ego = probes[pair.ego]
    start = pair.start_s or 0.0
    end = ego.duration_s if pair.end_s is None else pair.end_s
    inside = start < ego.duration_s and end <= ego.duration_s + tolerance_s
    if not inside:
        text = f"{start:g} to {end:g} s lies outside its ego video of {ego.duration_s:.2f} s"
        yield Finding("range", pair.segment, EGO, text)
    first, last = start + pair.offset_s, end + pair.offset_s
    for view, path in pair.exo.items():
        exo = probes[path]
        if exo.error:
            continue
        if abs(exo.rate - ego.rate) > 0.02 * ego.rate:
            text = f"ego has {ego.rate:.2f} frames a second, {view} {exo.rate:.2f}"
            yield Finding("rate", pair.segment, view, text)
        if not inside:
            continue
        if first < -1e-6 or first >= exo.duration_s:
            text = f"begins at {first:g} s of {view}, which has 0 to {exo.duration_s:.2f} s"
            yield Finding("range", pair.segment, view, text)
        elif last > exo.duration_s + tolerance_s:
            kind = "exo shorter" if pair.end_s is None else "range"
            text = f"ends at {last:.2f} s of {view}, which has only {exo.duration_s:.2f} s"
            yield Finding(kind, pair.segment, view, text)
        elif pair.end_s is None and exo.duration_s > last + tolerance_s:
            # With an end the exo is cut to it; without one the student would see what the teacher never saw.
            text = f"its ego ends at {last:.2f} s of {view}, which has {exo.duration_s:.2f} s"
            yield Finding("ego shorter", pair.segment, view, text)


def _duplicates(pairs: Sequence[Pair], probes: Mapping[str, Probe]) -> Iterator[Finding]:
    owners: dict[tuple[object, ...], str] = {}
    for pair in pairs:
        views: dict[str, str] = {}
        for view, path in pair.files.items():
            content = probes[path].sha256 or path
            part = (content, pair.start_s, pair.end_s, 0.0 if view == EGO else pair.offset_s)
            owner = views.get(content) or owners.get(part)
            if owner:
                yield Finding("duplicate", pair.segment, view, f"{view} is the same video as {owner}: {path}")
            views.setdefault(content, view)
            owners.setdefault(part, f"{pair.segment} {view}")


def _leakage(pairs: Sequence[Pair], probes: Mapping[str, Probe]) -> Iterator[Finding]:
    leaking = leaks(pairs)
    owners: dict[str, tuple[str, str]] = {}  # of each video: its split, and segment and view
    for pair in pairs:
        splits = leaking.get(pair.take)
        if splits and pair.split != splits[0]:
            text = f"take {pair.take} is in {pair.split} here and in {splits[0]} elsewhere"
            yield Finding("leakage", pair.segment, "", text)
        for view, path in pair.files.items():
            split, owner = owners.setdefault(probes[path].sha256 or path, (pair.split, f"{pair.segment} {view}"))
            if split != pair.split and not splits:
                text = f"{view} is in {pair.split} here, and the same video in {split} as {owner}"
                yield Finding("leakage", pair.segment, "", text)


def answer_findings(pairs: Sequence[Pair], answers: Sequence[Answer]) -> Iterator[Finding]:
    """A finding for each answer that cannot be trained on, and for each that is missing.

    Args:
        pairs: to check.
        answers: of any teacher; in a split without answers none is missing.
    """
    by_segment: dict[str, list[Answer]] = {}
    for answer in answers:
        by_segment.setdefault(answer.segment, []).append(answer)
    kinds = dict.fromkeys(answer.kind for answer in answers)
    asked = {pair.split for pair in pairs if pair.segment in by_segment}
    for pair in pairs:
        own = by_segment.get(pair.segment, [])
        for answer in own:
            flags = answer.flags or (() if answer.answer.strip() else (EMPTY,))
            if flags:
                text = f"the {answer.kind} answer {' and '.join(_FLAGS.get(flag, flag) for flag in flags)}"
                yield Finding("answer", pair.segment, "", text)
        missing = [kind for kind in kinds if all(answer.kind != kind for answer in own)]
        if missing and pair.split in asked:
            yield Finding("answer", pair.segment, "", f"has no answer of the kind(s) {', '.join(missing)}")
