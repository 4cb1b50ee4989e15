"""Pairs of long videos into pairs of cuts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ...common.files import require_writable
from ...common.processes import run_all
from ...common.text import repeated, shorten_list
from ...errors import Ego2ExoError
from ...video.limits import VideoLimits
from ...video.probe import require_av
from ...video.worker import WorkerPool
from .cutter import Cut, duration, made_as, make_in_worker
from .discovery import EGO
from .file import Pair, require_files

# Cuts made in processes that may hang or crash without harm.


class Cutters(WorkerPool):
    """Workers that cut videos, as many as concurrent callers; used in a `with` block.

    Args:
        limits: of a video; `video_limit_s` is the maximum time for one frame of a cut. None: the defaults.
    """

    def __init__(self, limits: VideoLimits | None = None) -> None:
        super().__init__("av")
        self.limits = limits or VideoLimits()

    def make(self, cut: Cut) -> str:
        """Make a cut unless it exists.

        Args:
            cut: what to make.

        Returns:
            "kept" if the right cut existed, "made" if it was made, else the error message.
        """
        whole = replace(cut, source=os.path.abspath(cut.source), target=os.path.abspath(cut.target))
        part = whole.part()
        arguments = {"cut": asdict(whole), "part": part, "limits": self.limits.to_dict()}
        try:
            return self.call(make_in_worker, arguments, self.limits, f"{cut.source} cannot be cut:")[0]
        except Ego2ExoError as error:
            return error.given
        finally:
            with contextlib.suppress(FileNotFoundError):  # left by a killed process
                os.unlink(part)

    def made_as(self, path: str) -> str:
        """The mark in a cut's metadata; empty if the file is not a complete cut.

        Args:
            path: of the file.
        """
        try:
            return self.call(made_as, {"path": os.path.abspath(path)}, self.limits)[0]
        except Ego2ExoError:
            return ""

    def duration(self, path: str) -> float:
        """Duration of a video in seconds; decodes only its end.

        Args:
            path: of the file.

        Raises:
            Ego2ExoError: it does not decode, or its frames have no times; the message lacks the file's name.
        """
        return self.call(duration, {"path": os.path.abspath(path)}, self.limits)[0]


@dataclass(frozen=True)
class CutResult:
    """What came out.

    Args:
        pairs: with the cut files; without the views that failed, and without pairs whose ego or every exo failed.
        made: number of cuts made now.
        kept: number of cuts that were there already.
        whole: number of videos that needed no cut and stay where they are.
        failures: what went wrong, one line a cut.
    """

    pairs: list[Pair]
    made: int
    kept: int
    whole: int
    failures: list[str]


def cut_pairs(
    pairs: Sequence[Pair], out: str | Path, crf: int = 18, tolerance_s: float = 0.5, workers: int = 0,
    progress: bool = True, limits: VideoLimits | None = None,
) -> CutResult:  # fmt: skip
    """Cut every segment of every view into `<out>/<segment>_<view>.mp4`; what is there already is checked and kept.

    Args:
        pairs: with `start_s`, `end_s` and `offset_s`; a pair that is a whole file in all views stays as it is.
        out: folder of the cuts.
        crf: quality of x264, 0 (lossless) to 51.
        tolerance_s: how much of a segment may be missing at the end of a video.
        workers: cuts at a time; 0: one a processor, at most 8.
        progress: show a progress bar.
        limits: what a video may be, and seconds that a cut may stand still; then it counts as failed. None: the
            defaults.

    Raises:
        Ego2ExoError: before any cut: missing videos, a segment before the start of an exo video, names that clash,
            files in the way that are no cuts of ours, a folder that cannot be written, a number out of range, PyAV or
            x264 missing.
    """
    _check_settings(crf, tolerance_s, workers)
    require_files(pairs)
    whole = [pair for pair in pairs if _is_whole(pair)]
    rest = [pair for pair in pairs if not _is_whole(pair)]
    targets = {
        (pair.segment, view): str(Path(out, f"{pair.segment}_{view}.mp4")) for pair in rest for view in pair.files
    }
    jobs = [(pair, view) for pair in rest for view in pair.files]
    with Cutters(limits) as cutters:

        def run(job: tuple[Pair, str]) -> str:
            pair, view = job
            try:
                cut = _cut(cutters, pair, view, targets[pair.segment, view], crf, tolerance_s)
            except Ego2ExoError as error:
                return f"{pair.ego} cannot be cut: {error.given}"
            return cutters.make(cut)

        _check_targets(rest, targets, cutters)
        _make_folder(out)
        answers = run_all(run, jobs, workers or min(os.cpu_count() or 1, 8), "cutting", "cut", progress)
    states = {(pair.segment, view): answer for (pair, view), answer in zip(jobs, answers, strict=True)}
    done = {key for key, state in states.items() if state in ("made", "kept")}
    return CutResult(
        pairs=[new for pair in pairs if (new := pair if _is_whole(pair) else _after(pair, targets, done)) is not None],
        made=answers.count("made"),
        kept=answers.count("kept"),
        whole=sum(len(pair.files) for pair in whole),
        failures=[
            f"{segment} {view}: {state}" for (segment, view), state in states.items() if (segment, view) not in done
        ],
    )


def _make_folder(out: str | Path) -> None:
    require_writable(Path(out, "pairs.jsonl"), "--out")
    Path(out).mkdir(parents=True, exist_ok=True)


def _is_whole(pair: Pair) -> bool:
    return not pair.start_s and pair.end_s is None and not pair.offset_s


def _cut(cutters: Cutters, pair: Pair, view: str, target: str, crf: int, tolerance_s: float) -> Cut:
    offset = 0.0 if view == EGO else pair.offset_s
    # An exo view is cut where the ego video ends, also when that is not written down.
    end = cutters.duration(pair.ego) if pair.end_s is None else pair.end_s
    return Cut(pair.files[view], target, (pair.start_s or 0.0) + offset, end + offset, crf, tolerance_s)


def _after(pair: Pair, targets: dict[tuple[str, str], str], done: set[tuple[str, str]]) -> Pair | None:
    exo = {view: targets[pair.segment, view] for view in pair.exo if (pair.segment, view) in done}
    if not exo or (pair.segment, EGO) not in done:
        return None
    return replace(pair, ego=targets[pair.segment, EGO], exo=exo, start_s=None, end_s=None, offset_s=0.0)


def _check_settings(crf: int, tolerance_s: float, workers: int) -> None:
    if not 0 <= crf <= 51 or tolerance_s < 0 or workers < 0:
        given = f"--crf {crf}, --tolerance {tolerance_s:g}, --workers {workers}"
        raise Ego2ExoError(given, "crf from 0 to 51, tolerance and workers not below 0", "mend the number")
    av = require_av()
    if "libx264" not in av.codecs_available:
        raise Ego2ExoError(
            "this PyAV has no libx264", "", "install PyAV's own wheel: pip install 'llava-ego2exo[pairs]'"
        )


def _check_targets(pairs: Sequence[Pair], targets: dict[tuple[str, str], str], cutters: Cutters) -> None:
    early = [
        f"{pair.segment} begins at {(pair.start_s or 0) + pair.offset_s:g} s of its exo videos"
        for pair in pairs
        if (pair.start_s or 0) + pair.offset_s < 0
    ]
    if early:
        given = f"{len(early)} segment(s) begin before their exo videos: {shorten_list(early)}"
        raise Ego2ExoError(given, "start_s + offset_s of 0 or more", "begin these segments later")
    clashes = repeated(targets.values())
    if clashes:
        raise Ego2ExoError(f"several cuts would be named {shorten_list(clashes)}", "", "rename these segments or views")
    sources = {path for pair in pairs for path in pair.files.values()}
    there = [path for path in targets.values() if os.path.exists(path)]
    foreign = [path for path in there if path in sources or not cutters.made_as(path)]
    if foreign:
        raise Ego2ExoError(
            f"{len(foreign)} file(s) in the way are no finished cuts: {shorten_list(foreign)}",
            "a folder of its own for the cuts",
            "pass another --out, or remove these files",
        )
