"""`pairs check`: probe the videos of a pairs file, and report its faults."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ..common.files import require_writable, write_atomic
from ..common.text import aligned_table
from ..errors import Ego2ExoError
from ..video.limits import VideoLimits
from ..video.probe import Probe, probe_files
from .findings import (
    KINDS,
    NOTES,
    Finding,
    answer_findings,
    by_kind,
    clean,
    line_findings,
    unpaired_findings,
    video_findings,
)
from .pairs.discovery import find_pairs, unpaired_beside
from .pairs.file import scan_pairs, write_pairs
from .pairs.pair import EGO, SPLITS, Pair
from .teach.store import read_answers


def run_check(
    path: str | Path, say: Callable[[str], None], *, tolerance_s: float = 0.5, limits: VideoLimits | None = None,
    workers: int = 0, videos: str | None = None, pattern: str | None = None, ego_view: str = EGO,
    skip_unpaired: bool = False, shown: int = 5, report_to: str | None = None, write_clean: str | None = None,
    progress: bool = True, answers: str | None = None,
) -> int:  # fmt: skip
    """Check a `pairs.jsonl` and return the exit code: 1 if there is a fault, else 0.

    Args:
        path: the file.
        say: gets each line of the report.
        tolerance_s: by how much lengths may differ, in seconds.
        limits: of a video; None: the defaults.
        workers: files at a time; 0: one per CPU, at most 8.
        videos: folder to search for unpaired files, with `pattern` and `ego_view`; None: the folders of the pairs.
        pattern: as in `find_pairs`.
        ego_view: as in `find_pairs`.
        skip_unpaired: do not search for unpaired files.
        shown: number of findings shown of each kind.
        report_to: JSON file for all findings and probes.
        write_clean: pairs file for what is not at fault.
        progress: show a progress bar.
        answers: folder of the teacher's answers, to check them too.

    Raises:
        Ego2ExoError: the pairs file cannot be read or is empty, the answers are damaged, a number is out of range, or a
            file cannot be written.
    """
    if tolerance_s < 0 or shown < 0:
        raise Ego2ExoError(f"--tolerance {tolerance_s:g}, --show {shown}", "0 or more", "fix the number")
    if pattern and not videos:
        raise Ego2ExoError("--pattern without --videos", "the folder that it is for", "pass --videos DIR too")
    for flag, file in (("--report", report_to), ("--write-clean", write_clean)):
        if file:
            require_writable(file, flag)
    lines = scan_pairs(path)
    pairs, findings = line_findings(lines)
    files = [file for pair in pairs for file in pair.files.values()]
    unpaired = find_pairs(videos, pattern, ego_view).unpaired if videos else unpaired_beside(files)
    unpaired = {} if skip_unpaired else unpaired
    probes = probe_files(files, workers, limits, progress)
    findings += [*video_findings(pairs, probes, tolerance_s), *unpaired_findings(pairs, unpaired)]
    findings = by_kind([*findings, *(answer_findings(pairs, read_answers(answers)) if answers is not None else ())])
    for line in report_lines(pairs, probes, findings, shown):
        say(line)
    if report_to:
        content = {
            "findings": [{**asdict(finding), "is_fault": finding.is_fault} for finding in findings],
            "files": {file: asdict(probe) for file, probe in probes.items()},
        }
        write_atomic(report_to, json.dumps(content, indent=1, ensure_ascii=False))
    total = len(lines.pairs) + len(lines.faults)
    if write_clean:
        kept = clean(pairs, findings)
        place = write_pairs(write_clean, kept) if kept else f"{write_clean} is not written"
        views = {pair.segment: len(pair.exo) for pair in pairs}
        fewer = sum(len(pair.exo) < views[pair.segment] for pair in kept)
        say(f"\n{place}: {len(kept)} of {total} pair(s) kept, {fewer} of them with fewer views")
    faults = sum(finding.is_fault for finding in findings)
    say(f"\n{faults} fault(s)" if faults else f"\n{total} pair(s), {len(probes)} file(s): no faults")
    return 1 if faults else 0


def report_lines(
    pairs: Sequence[Pair], probes: Mapping[str, Probe], findings: Sequence[Finding], shown: int = 5
) -> Iterator[str]:
    """Lines: the first `shown` findings of each kind, a table of the splits, and a table of the checks."""
    checks = []
    for kind, meaning in KINDS.items():
        texts = [f"  {finding.segment}: {finding.text}" for finding in findings if finding.kind == kind]
        checks.append([kind, f"{len(texts) or 'ok'}{' (note)' if texts and kind in NOTES else ''}", meaning])
        if texts:
            yield f"{kind}: {meaning}"
            yield from texts[:shown]
            if len(texts) > shown:
                yield f"  and {len(texts) - shown} more"
    splits = []
    for split in SPLITS:
        part = [pair for pair in pairs if pair.split == split]
        if part:
            hours = sum(_seconds(pair, probes) for pair in part) / 3600
            takes, views = len({pair.take for pair in part}), sum(len(pair.exo) for pair in part)
            splits.append([split, takes, len(part), views, f"{hours:.3f}"])
    yield "\n" + aligned_table(["split", "takes", "pairs", "exo views", "ego hours"], splits, rule=True)
    yield "\n" + aligned_table(["check", "found", "what"], checks, left=3, rule=True)


def _seconds(pair: Pair, probes: Mapping[str, Probe]) -> float:
    duration = probes[pair.ego].duration_s
    end = duration if pair.end_s is None else min(pair.end_s, duration)
    return max(end - (pair.start_s or 0.0), 0.0)
