"""What is wrong with a set of pairs, from what their files really hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..video.probe import Probe
from .pairs.build import leaks
from .pairs.discovery import EGO
from .pairs.file import Pair, Scanned
from .pairs.pair import Pair as Pair_pair
from .teach.quality import CUT, EMPTY, REPEATS
from .teach.store import Answer

# Kind of finding -> what the table says about it; each has its own paragraph in docs/pairs.md.
KINDS = {
    "line": "lines of the pairs file that are no pair",
    "segment": "names of segments that stand again",
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
# They speak of lines and files that are in no pair, though they may have the name of one.
_OF_NO_PAIR = frozenset({"line", "segment", "unpaired"})


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or (kind in `NOTES`) worth knowing.

    Args:
        kind: key of `KINDS`.
        segment: of which pair.
        view: what to leave out to mend it; "ego" (and empty) stand for the whole pair.
        text: what is wrong, in words.
    """

    kind: str
    segment: str
    view: str
    text: str

    @property
    def is_fault(self) -> bool:
        return self.kind not in NOTES


def check_pairs(pairs: Sequence[Pair], probes: Mapping[str, Probe], tolerance_s: float = 0.5) -> list[Finding]:
    """All findings, by kind in the order of `KINDS`, then by pair.

    Args:
        pairs: what to check.
        probes: path -> what the file holds, for every file of the pairs.
        tolerance_s: seconds by which lengths may differ, and a segment may reach past a video's end.
    """
    findings: list[Finding] = []
    for pair in pairs:
        findings += _unreadable(pair, probes)
        findings += _lengths(pair, probes, tolerance_s)
        findings += _rates(pair, probes)
    findings += _duplicates(pairs, probes)
    findings += _leakage(pairs, probes)
    return by_kind(findings)


def by_kind(findings: Iterable[Finding]) -> list[Finding]:
    """Findings in the order of `KINDS`, else as they were."""
    order = list(KINDS)
    return sorted(findings, key=lambda finding: order.index(finding.kind))


def unpaired_findings(pairs: Sequence[Pair], unpaired: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """Segments of a folder that lack a side, where no pair uses their files."""
    used = {path for pair in pairs for path in pair.files.values()}
    return [
        Finding("unpaired", segment, "", f"{path} has no {'exo view' if view == EGO else 'ego view'} beside it")
        for segment, views in unpaired.items()
        for view, path in views.items()
        if path not in used
    ]


def clean(pairs: Sequence[Pair], findings: Sequence[Finding]) -> list[Pair]:
    """The pairs without what the faults name: the view, or the pair where the ego is at fault or no view is left."""
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


def _unreadable(pair: Pair, probes: Mapping[str, Probe]) -> Iterator[Finding]:
    for view, path in pair.files.items():
        if probes[path].error:
            yield Finding("unreadable", pair.segment, view, f"{view} {path} {probes[path].error}")


def _lengths(pair: Pair, probes: Mapping[str, Probe], tolerance_s: float) -> Iterator[Finding]:
    ego = probes[pair.ego]
    if ego.error:
        return
    start = pair.start_s or 0.0
    end = ego.duration_s if pair.end_s is None else pair.end_s
    if start >= ego.duration_s or end > ego.duration_s + tolerance_s:
        text = f"{start:g} to {end:g} s lies outside its ego video of {ego.duration_s:.2f} s"
        yield Finding("range", pair.segment, EGO, text)
        return
    for view, path in pair.exo.items():
        exo = probes[path]
        if exo.error:
            continue
        first, last = start + pair.offset_s, end + pair.offset_s
        if first < -1e-6 or first >= exo.duration_s:
            text = f"begins at {first:g} s of {view}, which has 0 to {exo.duration_s:.2f} s"
            yield Finding("range", pair.segment, view, text)
        elif last > exo.duration_s + tolerance_s:
            kind = "exo shorter" if pair.end_s is None else "range"
            text = f"ends at {last:.2f} s of {view}, which has only {exo.duration_s:.2f} s"
            yield Finding(kind, pair.segment, view, text)
        elif pair.end_s is None and exo.duration_s > last + tolerance_s:
            # With an end given the exo is cut to it; without one the student would see what the teacher never saw.
            text = f"its ego ends at {last:.2f} s of {view}, which has {exo.duration_s:.2f} s"
            yield Finding("ego shorter", pair.segment, view, text)


def _rates(pair: Pair, probes: Mapping[str, Probe]) -> Iterator[Finding]:
    ego = probes[pair.ego]
    for view, path in pair.exo.items():
        exo = probes[path]
        if not ego.error and not exo.error and abs(exo.rate - ego.rate) > 0.02 * ego.rate:
            text = f"ego has {ego.rate:.2f} frames a second, {view} {exo.rate:.2f}"
            yield Finding("rate", pair.segment, view, text)


def _content(path: str, probes: Mapping[str, Probe]) -> str:
    return probes[path].sha256 or path


def _duplicates(pairs: Sequence[Pair], probes: Mapping[str, Probe]) -> Iterator[Finding]:
    seen: dict[tuple[object, ...], str] = {}
    for pair in pairs:
        within: dict[str, str] = {}
        for view, path in pair.files.items():
            content = _content(path, probes)
            if content in within:
                text = f"{view} is the same video as {within[content]}: {path}"
                yield Finding("duplicate", pair.segment, view, text)
                continue
            within[content] = view
            offset = 0.0 if view == EGO else pair.offset_s
            part = (content, pair.start_s, pair.end_s, offset)
            if part in seen:
                yield Finding("duplicate", pair.segment, view, f"{view} is the same video as {seen[part]}: {path}")
            seen.setdefault(part, f"{pair.segment} {view}")


def _leakage(pairs: Sequence[Pair], probes: Mapping[str, Probe]) -> Iterator[Finding]:
    leaking = leaks(pairs)
    split_of: dict[str, tuple[str, str]] = {}
    for pair in pairs:
        splits = leaking.get(pair.take)
        if splits and pair.split != splits[0]:
            text = f"take {pair.take} is in {pair.split} here and in {splits[0]} elsewhere"
            yield Finding("leakage", pair.segment, "", text)
        for view, path in pair.files.items():
            split, owner = split_of.setdefault(_content(path, probes), (pair.split, f"{pair.segment} {view}"))
            if split != pair.split and not splits:
                text = f"{view} is in {pair.split} here, and the same video in {split} as {owner}"
                yield Finding("leakage", pair.segment, "", text)


# What is wrong with the lines of a pairs file before any video is opened.


def line_findings(found: Scanned) -> tuple[list[Pair_pair], list[Finding]]:
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


# What is wrong with the teacher's answers about each pair.

_WORDS = {EMPTY: "is empty", CUT: "was cut by the length limit", REPEATS: "repeats itself"}


def answer_findings(pairs: Sequence[Pair_pair], answers: Sequence[Answer]) -> Iterator[Finding]:
    """A finding for each answer that nobody should train on, and for each that is missing.

    Args:
        pairs: to look at.
        answers: of any teacher; a split without any answer was not asked about, and misses none.
    """
    by_segment: dict[str, list[Answer]] = {}
    for answer in answers:
        by_segment.setdefault(answer.segment, []).append(answer)
    kinds = list(dict.fromkeys(answer.kind for answer in answers))
    asked = {pair.split for pair in pairs if pair.segment in by_segment}
    for pair in pairs:
        own = by_segment.get(pair.segment, [])
        for answer in own:
            flags = list(answer.flags) or ([] if answer.answer.strip() else [EMPTY])
            faults = [_WORDS.get(flag, flag) for flag in flags]
            if faults:
                yield Finding("answer", pair.segment, "", f"the {answer.kind} answer {' and '.join(faults)}")
        there = {answer.kind for answer in own}
        missing = [kind for kind in kinds if kind not in there] if pair.split in asked else []
        if missing:
            yield Finding("answer", pair.segment, "", f"has no answer of the kind(s) {', '.join(missing)}")
