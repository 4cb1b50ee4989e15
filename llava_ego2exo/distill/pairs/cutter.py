"""Segments cut out of long videos: frame by frame, encoded again, so that each cut holds exactly its frames.

A cut is written beside its place and renamed when it is complete, and its metadata identify what it was cut from: a run
that was stopped resumes, and a cut of another video or other times is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ...errors import Ego2ExoError
from ...video.limits import VideoLimits
from ...video.probe import read_header, require_av
from ...video.worker import heartbeat, short_reason

TITLE = "llava-ego2exo cut"
_EDGE_BYTES = 1 << 16
_NO_TIMES = "its frames have no times; convert it to .mp4 first"
# The same bytes each time, since answers are stored by the hash of the clip: with its macroblock tree x264 sometimes
# gave other bytes when many cuts ran at once. One thread each: the cuts themselves run in parallel.
_X264 = {"preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}


@dataclass(frozen=True)
class Cut:
    """One cut to make.

    Args:
        source: the long video.
        target: the file to write, `.mp4`.
        start_s: seconds after the first frame of the source.
        end_s: the first instant that no longer belongs to the cut; None: to the end.
        crf: quality of x264, 0 (lossless) to 51.
        tolerance_s: how much may be missing at the end of the source.
    """

    source: str
    target: str
    start_s: float
    end_s: float | None
    crf: int = 18
    tolerance_s: float = 0.5

    def mark(self) -> str:
        """What the cut's metadata hold: source by size, first and last bytes; times; quality."""
        values = [_fingerprint(self.source), round(self.start_s, 6), self.end_s and round(self.end_s, 6), self.crf]
        return f"{TITLE} {json.dumps(values)}"


def make(cut: Cut, limits: VideoLimits | None = None, part: str = "") -> str:
    """Make one cut, through the file `part`: "made", or "kept" if it existed; errors lack the source's name."""
    av = require_av()
    if os.path.exists(cut.target) and made_as(cut.target) == cut.mark():
        return "kept"
    part = part or f"{cut.target}.part"
    try:
        read_header(cut.source, limits or VideoLimits())
        _write(cut, part)
        os.replace(part, cut.target)
    except (av.error.FFmpegError, OSError) as error:
        raise Ego2ExoError(f"cannot be cut: {short_reason(error)}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
    return "made"


def make_in_worker(cut: dict[str, Any], part: str, limits: dict[str, float]) -> str:
    """:func:`make` with JSON values."""
    return make(Cut(**cut), VideoLimits(**limits), part)


def made_as(path: str) -> str:
    """The mark in a cut's metadata; empty if the file is not a complete cut."""
    av = require_av()
    try:
        with av.open(path) as container:
            mark, streams = container.metadata.get("comment", ""), container.streams.video
            return mark if mark.startswith(TITLE) and streams and streams[0].frames else ""
    except (av.error.FFmpegError, OSError):
        return ""


def video_duration(path: str) -> float:
    """Seconds from the first frame of a video to the end of the last; decodes only its end."""
    av = require_av()
    with av.open(path) as container:
        if not container.streams.video:
            raise ValueError("holds no video stream")
        stream = container.streams.video[0]
        first = _first_time(container, stream)
        whole = container.duration / av.time_base if container.duration else 0.0
        if whole > 20:
            container.seek(int((whole - 10) * av.time_base), backward=True)
        else:
            container.seek(first, stream=stream, backward=True)
        last = max((frame.pts for frame in container.decode(stream) if frame.pts is not None), default=None)
        if last is None:
            raise ValueError("holds no frame with a time")
        return float((last - first) * stream.time_base) + 1 / float(stream.average_rate or 30)


def _write(cut: Cut, part: str) -> None:
    av = require_av()
    with av.open(cut.source) as source:
        stream = source.streams.video[0]
        stream.thread_type = "AUTO"
        rate = Fraction(stream.average_rate or 30).limit_denominator(1001)
        with av.open(part, "w", format="mp4", options={"movflags": "use_metadata_tags"}) as target:
            target.metadata["comment"] = cut.mark()
            seconds = _encode(_frames(source, stream, cut), target, stream.time_base, rate, cut.crf)
    if seconds is None:
        raise Ego2ExoError(f"has no frame between {cut.start_s:g} and {cut.end_s or float('inf'):g} s")
    missing = (cut.end_s or 0.0) - cut.start_s - seconds
    if missing > cut.tolerance_s:
        raise Ego2ExoError(f"ends {missing:.2f} s before the segment does ({cut.end_s:g} s)")


def _frames(container: Any, stream: Any, cut: Cut) -> Iterator[Any]:
    """The frames shown from `start_s` on and before `end_s`."""
    first, base = _first_time(container, stream), stream.time_base
    # Half a millisecond: times in files are rounded to their time base, which may be 1/1000.
    slack = 0.0005
    for seconds, frame in _timed(container, stream, first, max(int((cut.start_s - 1) / base), 0)):
        heartbeat()
        if cut.end_s is not None and seconds >= cut.end_s - slack:
            return
        if seconds >= cut.start_s - slack:
            yield frame


def _first_time(container: Any, stream: Any) -> int:
    """When the first frame is shown, in the stream's time base; the stream's own `start_time` may be another."""
    frame = next(container.decode(stream), None)
    if frame is None or frame.pts is None:
        raise ValueError(_NO_TIMES if frame else "holds no frame")
    return frame.pts


def _timed(container: Any, stream: Any, first: int, ahead: int) -> Iterator[tuple[float, Any]]:
    """(seconds after the first frame, frame) from a key frame not after `first + ahead` on, both in the time base."""
    for goal in (first + ahead, first):
        container.seek(goal, stream=stream, backward=True)
        begun = False
        for frame in container.decode(stream):
            if frame.pts is None:
                raise ValueError(_NO_TIMES)
            # A format without an index may land too late; then everything from the first frame on is decoded.
            if not begun and frame.pts > goal > first:
                break
            begun = True
            yield float((frame.pts - first) * stream.time_base), frame
        else:
            if begun or goal == first:
                return


def _encode(frames: Iterator[Any], target: Any, base: Fraction, rate: Fraction, crf: int) -> float | None:
    """Encode frames with their own times, from 0; the seconds they last, or None without frames."""
    out, first, last = None, 0, 0
    for frame in frames:
        frame = _upright(frame)
        if out is None:
            out = target.add_stream("libx264", rate=rate, options={"crf": str(crf), **_X264})
            # x264 with 4:2:0 colour takes even sizes only.
            out.width, out.height, out.pix_fmt = frame.width & ~1, frame.height & ~1, "yuv420p"
            out.codec_context.time_base = base
            first = frame.pts
        last = frame.pts
        frame.pts, frame.time_base, frame.pict_type = frame.pts - first, base, 0
        target.mux(out.encode(frame))
    if out is None:
        return None
    target.mux(out.encode())
    return float((last - first) * base) + float(1 / rate)


def _upright(frame: Any) -> Any:
    """The frame turned as players show it: the cut's header has no rotation."""
    turns = round(frame.rotation / 90) % 4
    if not turns:
        return frame
    import numpy as np

    turned = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
    upright = type(frame).from_ndarray(turned, format="rgb24")
    upright.pts, upright.time_base = frame.pts, frame.time_base
    return upright


def _fingerprint(path: str) -> str:
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(_EDGE_BYTES)
        file.seek(max(size - _EDGE_BYTES, 0))
        digest = hashlib.sha256(b"%d\n" % size + head + file.read(_EDGE_BYTES))
    return digest.hexdigest()[:32]
