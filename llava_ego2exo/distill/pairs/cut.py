"""Pairs of long videos to pairs of cuts."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ...common.files import require_writable
from ...common.processes import map_threads
from ...common.text import repeated, shorten_list
from ...errors import Ego2ExoError
from ...video import video_seconds
from ...video.frames import require_av
from ...video.limits import VideoLimits
from ...video.worker import WorkerPool
from .cutter import Cut, made_as, make_in_worker
from .file import require_files
from .pair import EGO, Pair

Targets = Mapping[tuple[str, str], str]  # (segment, view) -> file


class Cutters(WorkerPool):
    """Workers that cut videos, as many as concurrent callers; `video_limit_s` is the time for one frame of a cut."""

    def __init__(self, limits: VideoLimits | None = None) -> None:
        super().__init__("av")
        self.limits = limits or VideoLimits()

    def make(self, cut: Cut) -> str:
        """Make a cut unless it exists: "made", "kept", or else the error message."""
        cut = replace(cut, source=os.path.abspath(cut.source), target=os.path.abspath(cut.target))
        part = f"{cut.target}.{os.getpid()}-{threading.get_ident()}.part"
        arguments = {"cut": asdict(cut), "part": part, "limits": self.limits.to_dict()}
        try:
            return self.call(make_in_worker, arguments, self.limits, cut.source)[0]
        except Ego2ExoError as error:
            return error.given
        finally:
            with contextlib.suppress(FileNotFoundError):  # left by a killed process
                os.unlink(part)

    def made_as(self, path: str) -> str:
        """The mark in a cut's metadata; empty if the file is not a complete cut."""
        try:
            return self.call(made_as, {"path": os.path.abspath(path)}, self.limits)[0]
        except Ego2ExoError:
            return ""


@dataclass(frozen=True)
class CutResult:
    """The cuts of a run: the pairs of what did not fail, and how many cuts were made, existed, or are whole videos."""

    pairs: list[Pair]
    made: int
    kept: int
    whole: int
    failures: list[str]


def cut_pairs(
    pairs: Sequence[Pair], out: str | Path, crf: int = 18, tolerance_s: float = 0.5, workers: int = 0,
    progress: bool = True, limits: VideoLimits | None = None,
) -> CutResult:  # fmt: skip
    """Cut every segment of every view into `<out>/<segment>_<view>.mp4`, unless that cut exists.

    Pairs of whole files stay as they are; arguments as the command's flags.

    Raises:
        Ego2ExoError: before any cut: missing videos, a segment before the start of an exo video, clashing names, files
            in the way that are no cuts, a folder that cannot be written, a number out of range, no PyAV or x264.
    """
    if not 0 <= crf <= 51 or tolerance_s < 0 or workers < 0:
        given = f"--crf {crf}, --tolerance {tolerance_s:g}, --workers {workers}"
        raise Ego2ExoError(given, "crf from 0 to 51, tolerance and workers from 0", "fix the number")
    if "libx264" not in require_av().codecs_available:
        raise Ego2ExoError("this PyAV has no libx264", "", "install PyAV's wheel: pip install 'llava-ego2exo[pairs]'")
    require_files(pairs)
    parts = [pair for pair in pairs if pair.start_s or pair.end_s is not None or pair.offset_s]
    targets = {
        (pair.segment, view): str(Path(out, f"{pair.segment}_{view}.mp4")) for pair in parts for view in pair.files
    }
    jobs = [(pair, view) for pair in parts for view in pair.files]
    with Cutters(limits) as cutters:

        def run(job: tuple[Pair, str]) -> str:
            pair, view = job
            try:
                # An exo view ends with its ego video, also where the pair has no `end_s`.
                end = video_seconds(pair.ego, limits) if pair.end_s is None else pair.end_s
            except Ego2ExoError as error:
                return error.given
            offset = 0.0 if view == EGO else pair.offset_s
            start, end, target = (pair.start_s or 0.0) + offset, end + offset, targets[pair.segment, view]
            return cutters.make(Cut(pair.files[view], target, start, end, crf, tolerance_s))

        _check_targets(parts, targets, cutters)
        require_writable(Path(out, "pairs.jsonl"), "--out")
        Path(out).mkdir(parents=True, exist_ok=True)
        states = map_threads(run, jobs, workers or min(os.cpu_count() or 1, 8), "cutting", "cut", progress)
    failures = {
        (pair.segment, view): state
        for (pair, view), state in zip(jobs, states, strict=True)
        if state not in ("made", "kept")
    }
    cut = {pair.segment: _cut_pair(pair, targets, failures) for pair in parts}
    return CutResult(
        pairs=[new for pair in pairs if (new := cut.get(pair.segment, pair)) is not None],
        made=states.count("made"),
        kept=states.count("kept"),
        whole=sum(len(pair.files) for pair in pairs if pair.segment not in cut),
        failures=[f"{segment} {view}: {state}" for (segment, view), state in failures.items()],
    )


def _cut_pair(pair: Pair, targets: Targets, failures: Targets) -> Pair | None:
    """The pair of the files that were cut; None without an ego or any exo."""
    exo = {view: targets[pair.segment, view] for view in pair.exo if (pair.segment, view) not in failures}
    if not exo or (pair.segment, EGO) in failures:
        return None
    return replace(pair, ego=targets[pair.segment, EGO], exo=exo, start_s=None, end_s=None, offset_s=0.0)


def _check_targets(pairs: Sequence[Pair], targets: Targets, cutters: Cutters) -> None:
    starts = {pair.segment: (pair.start_s or 0.0) + pair.offset_s for pair in pairs}
    early = [f"{segment} begins at {start:g} s of its exo videos" for segment, start in starts.items() if start < 0]
    if early:
        given = f"{len(early)} segment(s) begin before their exo videos: {shorten_list(early)}"
        raise Ego2ExoError(given, "start_s + offset_s of 0 or more", "let these segments begin later")
    clashes = repeated(targets.values())
    if clashes:
        raise Ego2ExoError(f"several cuts would be named {shorten_list(clashes)}", "", "rename these segments or views")
    sources = {path for pair in pairs for path in pair.files.values()}
    other = [p for p in targets.values() if os.path.exists(p) and (p in sources or not cutters.made_as(p))]
    if other:
        raise Ego2ExoError(
            f"{len(other)} file(s) in the way are no finished cuts: {shorten_list(other)}",
            "a folder of its own for the cuts",
            "pass another --out, or remove these files",
        )
