"""Segments cut out of long videos: frame by frame, encoded again, so that each cut holds exactly its frames.

A cut is written beside its place and renamed when it is complete, and its metadata identify what it was cut from: a run
that was stopped resumes, and a cut of another video or other times is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ...errors import Ego2ExoError
from ...video.frames import VideoFrames, require_av, upright, use_video
from ...video.limits import VideoLimits
from ...video.worker import heartbeat, short_reason

TITLE = "llava-ego2exo cut"
_EDGE_BYTES = 1 << 16
_TICKS = 90_000  # a second, where the rate changes
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
        use_video(cut.source, limits or VideoLimits(), lambda video: _write(video, cut, part), heartbeat)
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


def _write(video: VideoFrames, cut: Cut, part: str) -> None:
    timeline = video.timeline
    first, last = timeline.part(cut.start_s, cut.end_s, cut.tolerance_s)
    rate = Fraction(timeline.rate).limit_denominator(1001)
    with require_av().open(part, "w", format="mp4", options={"movflags": "use_metadata_tags"}) as target:
        target.metadata["comment"] = cut.mark()
        out = target.add_stream("libx264", rate=rate, options={"crf": str(cut.crf), **_X264})
        base = 1 / rate if timeline.constant else Fraction(1, _TICKS)
        out.codec_context.time_base, out.pix_fmt = base, "yuv420p"
        size: tuple[int, ...] = ()
        for index, source in video.frames(range(first, last)):
            size = size or (source.width, source.height)
            frame = source.from_ndarray(upright(source, *size), format="rgb24")
            if index == first:
                # x264 with 4:2:0 colour takes even sizes only.
                out.width, out.height = frame.width & ~1, frame.height & ~1
            frame.pts = round((timeline.times[index] - timeline.times[first]) / base)
            frame.time_base = base
            target.mux(out.encode(frame))
        target.mux(out.encode())


def _fingerprint(path: str) -> str:
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(_EDGE_BYTES)
        file.seek(max(size - _EDGE_BYTES, 0))
        digest = hashlib.sha256(b"%d\n" % size + head + file.read(_EDGE_BYTES))
    return digest.hexdigest()[:32]
