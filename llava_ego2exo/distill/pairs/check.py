"""`pairs check`: decode the videos of a pairs file, and report its faults."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ...common.files import require_writable, write_atomic
from ...common.text import aligned_table
from ...errors import Ego2ExoError
from ...video.limits import VideoLimits
from ...video.probe import Probe, probe_files
from .build import leaks, summary
from .file import PairLines, scan_pairs, write_pairs
from .pair import EGO, Pair

# Kind of finding -> its meaning in the report; each has its own paragraph in docs/pairs.md.
KINDS = {
    "line": "lines of the pairs file that are no pair",
    "segment": "repeated segments",
    "unreadable": "files that are missing or do not decode",
    "range": "segments that reach outside a video",
    "ego shorter": "ego clips shorter than an exo view",
    "exo shorter": "exo views shorter than the ego clip",
    "duplicate": "the same video twice",
    "leakage": "takes or videos in several splits",
}
_SHOWN = 5
Probes = Mapping[str, Probe]  # by path


@dataclass(frozen=True)
class Finding:
    """A fault; `view` is to drop, or the pair where it is "ego" or empty."""

    kind: str
    segment: str
    view: str
    text: str


def run_check(
    path: str | Path, say: Callable[[str], None], *, tolerance_s: float = 0.5, limits: VideoLimits | None = None,
    workers: int = 0, report_to: str | None = None, write_clean: str | None = None, progress: bool = True,
    shared_exo: bool = False,
) -> int:  # fmt: skip
    """Check a `pairs.jsonl` and return the exit code, 1 if there is a fault; arguments as the command's flags.

    Raises:
        Ego2ExoError: the pairs file cannot be read or is empty, a number is out of range, or a file cannot be written.
    """
    if tolerance_s < 0:
        raise Ego2ExoError(f"--tolerance {tolerance_s:g}", "0 or more", "fix the number")
    for flag, file in (("--report", report_to), ("--write-clean", write_clean)):
        if file:
            require_writable(file, flag)
    lines = scan_pairs(path)
    pairs, findings = line_findings(lines)
    probes = probe_files([file for pair in pairs for file in pair.files.values()], workers, limits, progress)
    findings += video_findings(pairs, probes, tolerance_s, shared_exo)
    for line in report_lines(pairs, findings):
        say(line)
    if report_to:
        content = {"findings": list(map(asdict, findings)), "files": {file: asdict(p) for file, p in probes.items()}}
        write_atomic(report_to, json.dumps(content, indent=1, ensure_ascii=False))
    total = len(lines.pairs) + len(lines.faults)
    if write_clean:
        kept = clean(pairs, findings)
        place = write_pairs(write_clean, kept) if kept else f"{write_clean} is not written"
        say(f"\n{place}: {len(kept)} of {total} pair(s) kept")
    say(f"\n{len(findings) or 'no'} fault(s) in {total} pair(s), {len(probes)} file(s)")
    return 1 if findings else 0


def clean(pairs: Sequence[Pair], findings: Sequence[Finding]) -> list[Pair]:
    """The pairs without what is at fault: a view, or the pair if its ego or every view is."""
    faults: dict[str, set[str]] = {}
    for finding in findings:
        if finding.kind not in ("line", "segment"):  # which are of no pair
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
    findings = [Finding("line", f"line {number}", "", "; ".join(faults)) for number, faults in lines.faults.items()]
    pairs: dict[str, Pair] = {}
    for number, pair in zip(lines.numbers, lines.pairs, strict=True):
        if pair.segment in pairs:
            findings.append(Finding("segment", pair.segment, "", f"line {number} repeats it"))
        pairs.setdefault(pair.segment, pair)
    return list(pairs.values()), findings


def video_findings(
    pairs: Sequence[Pair], probes: Probes, tolerance_s: float, shared_exo: bool = False
) -> list[Finding]:
    """Findings in the videos of pairs; lengths may differ by the tolerance, in seconds.

    With `shared_exo` pairs of one take may have one exo file.
    """
    findings: list[Finding] = []
    for pair in pairs:
        for view, path in pair.files.items():
            if probes[path].error:
                findings.append(Finding("unreadable", pair.segment, view, f"{view} {path} {probes[path].error}"))
        if not probes[pair.ego].error:
            findings += _lengths(pair, probes, tolerance_s)
    return [*findings, *_duplicates(pairs, probes, shared_exo), *_leakage(pairs, probes)]


def _lengths(pair: Pair, probes: Probes, tolerance_s: float) -> Iterator[Finding]:
    ego = probes[pair.ego].duration_s
    start, end = pair.start_s or 0.0, ego if pair.end_s is None else pair.end_s
    if start >= ego or end > ego + tolerance_s:
        yield Finding("range", pair.segment, EGO, f"{start:g} to {end:g} s is outside its ego video of {ego:.2f} s")
        return
    first, last = start + pair.offset_s, end + pair.offset_s
    for view, path in pair.exo.items():
        exo, kind = probes[path].duration_s, ""
        if probes[path].error:
            continue
        if first < -1e-6 or first >= exo:
            kind = "range"
        elif last > exo + tolerance_s:
            kind = "exo shorter" if pair.end_s is None else "range"
        elif pair.end_s is None and exo > last + tolerance_s:
            # With an end the exo is cut to it; without one the student would see what the teacher never saw.
            kind = "ego shorter"
        if kind:
            yield Finding(kind, pair.segment, view, f"{first:.2f} to {last:.2f} s of {view}, which has {exo:.2f} s")


def _duplicates(pairs: Sequence[Pair], probes: Probes, shared_exo: bool) -> Iterator[Finding]:
    owners: dict[tuple[object, ...], tuple[Pair, str]] = {}
    for pair in pairs:
        views: dict[str, str] = {}
        for view, path in pair.files.items():
            content = probes[path].sha256 or path
            part = (content, pair.start_s, pair.end_s, 0.0 if view == EGO else pair.offset_s)
            first, owner = owners.setdefault(part, (pair, f"{pair.segment} {view}"))
            shared = first.take == pair.take and path in first.exo.values()
            if content in views or (first is not pair and not (shared and shared_exo)):
                text = f"{view} is the same video as {views.get(content, owner)}: {path}"
                if shared and content not in views and first.ego != pair.ego:
                    text += " (ego cameras of one take may share it: --shared-exo)"
                yield Finding("duplicate", pair.segment, view, text)
            views.setdefault(content, view)


def _leakage(pairs: Sequence[Pair], probes: Probes) -> Iterator[Finding]:
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


def report_lines(pairs: Sequence[Pair], findings: Sequence[Finding]) -> Iterator[str]:
    """The first findings of each kind, the counts of each split, and a table of the checks."""
    checks = []
    for kind, meaning in KINDS.items():
        texts = [f"  {finding.segment}: {finding.text}" for finding in findings if finding.kind == kind]
        checks.append([kind, len(texts) or "ok", meaning])
        if texts:
            more = [f"  and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
            yield "\n".join([f"{kind}: {meaning}", *texts[:_SHOWN], *more])
    yield "\n" + summary(pairs)
    yield "\n" + aligned_table(["check", "found", "what"], checks, left=3, rule=True)
