"""Probe a pairs file, check it, and say what came out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ..common.files import require_writable, write_atomic
from ..errors import Ego2ExoError
from ..video.limits import VideoLimits
from ..video.probe import Probe, probe_files
from .findings import (
    KINDS,
    NOTES,
    Finding,
    answer_findings,
    by_kind,
    check_pairs,
    clean,
    line_findings,
    unpaired_findings,
)
from .pairs.discovery import EGO, find_pairs, unpaired_beside
from .pairs.file import Pair, scan_pairs, write_pairs
from .pairs.pair import SPLITS
from .teach.store import read_answers

# The table that `pairs check` ends with.


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


def run_check(
    path: str | Path, say: Callable[[str], None], *, tolerance_s: float = 0.5, limits: VideoLimits | None = None,
    workers: int = 0, videos: str | None = None, pattern: str | None = None, ego_view: str = EGO,
    skip_unpaired: bool = False, shown: int = 5, report_to: str | None = None, write_clean: str | None = None,
    progress: bool = True, answers: str | None = None,
) -> int:  # fmt: skip
    """Check a `pairs.jsonl` and return the exit code: 0 where nothing is wrong, else 1.

    Args:
        path: the file.
        say: gets each line of the report.
        tolerance_s: seconds by which lengths may differ.
        limits: what a video may be, and seconds that one file may take; None: the defaults.
        workers: files at a time; 0: one a processor, at most 8.
        videos: folder to look for unpaired files in, with `pattern` and `ego_view`; None: beside the pairs' files.
        pattern: as in `find_pairs`.
        ego_view: as in `find_pairs`.
        skip_unpaired: do not look for unpaired files.
        shown: findings shown of each kind.
        report_to: JSON file for all findings and what each file holds.
        write_clean: pairs file for what is not at fault.
        progress: show a progress bar.
        answers: folder of the teacher's answers, which are looked at too; None: they are not.

    Raises:
        Ego2ExoError: the pairs file cannot be read or is empty, the answers are damaged, a number is out of range, or a
            file cannot be written.
    """
    if tolerance_s < 0 or shown < 0:
        raise Ego2ExoError(f"--tolerance {tolerance_s:g}, --show {shown}", "0 or more", "mend the number")
    if pattern and not videos:
        raise Ego2ExoError("--pattern without --videos", "the folder that it is for", "pass --videos DIR too")
    for flag, file in (("--report", report_to), ("--write-clean", write_clean)):
        if file:
            require_writable(file, flag)
    found = scan_pairs(path)
    if not found.pairs and not found.faults:
        raise Ego2ExoError(f"{path} holds no pair", "one pair a line", "make it with `llava-ego2exo pairs build`")
    pairs, findings = line_findings(found)
    unpaired = {} if skip_unpaired else _unpaired(pairs, videos, pattern, ego_view)
    probes = probe_files([file for pair in pairs for file in pair.files.values()], workers, limits, progress)
    findings += check_pairs(pairs, probes, tolerance_s) + unpaired_findings(pairs, unpaired)
    findings += [] if answers is None else answer_findings(pairs, read_answers(answers))
    findings = by_kind(findings)
    for line in report(pairs, probes, findings, shown):
        say(line)
    if report_to:
        whole = {
            "findings": [{**asdict(finding), "is_fault": finding.is_fault} for finding in findings],
            "files": {file: asdict(probe) for file, probe in probes.items()},
        }
        write_atomic(report_to, json.dumps(whole, indent=1, ensure_ascii=False))
    total = len(found.pairs) + len(found.faults)
    if write_clean:
        say(f"\n{_write_clean(write_clean, pairs, findings, total)}")
    faults = sum(finding.is_fault for finding in findings)
    say(f"\n{faults} fault(s)" if faults else f"\n{total} pair(s), {len(probes)} file(s): nothing is wrong")
    return 1 if faults else 0


def _write_clean(file: str, pairs: list[Pair], findings: list[Finding], total: int) -> str:
    kept = clean(pairs, findings)
    where = write_pairs(file, kept) if kept else f"{file} is not written"
    views = {pair.segment: len(pair.exo) for pair in pairs}
    fewer = sum(len(pair.exo) < views[pair.segment] for pair in kept)
    return f"{where}: {len(kept)} of {total} pair(s) kept, {fewer} of them with fewer views"


def _unpaired(pairs: list[Pair], videos: str | None, pattern: str | None, ego_view: str) -> dict[str, dict[str, str]]:
    if videos:
        return find_pairs(videos, pattern, ego_view).unpaired
    return unpaired_beside(file for pair in pairs for file in pair.files.values())
