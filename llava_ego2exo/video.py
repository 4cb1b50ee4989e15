"""Frames of a video as LLaVA-NeXT takes them, for hosts that cannot read videos and for asking a question."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .errors import Ego2ExoError

# How much a video may be shorter than its segment: the last frame's length is a guess.
_MISSING_S = 0.5
# Time of day and place in decord's source, which it puts before its messages.
_NOISE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")


@dataclass(frozen=True)
class Clip:
    """Sampled frames.

    Args:
        frames: (T, H, W, 3) uint8.
        times: seconds of each frame.
        duration: seconds of the whole video.
        indices: of the frames in the file, from 0.
        rate: frames a second of the file, on average.
    """

    frames: Any
    times: list[float]
    duration: float
    indices: list[int]
    rate: float


def sample_indices(total: int, fps: float, frames_per_second: int, upbound: int, force: bool) -> list[int]:
    """LLaVA-NeXT's rule: `frames_per_second` frames a second; evenly spaced ones where these exceed `upbound`.

    Args:
        total: frames in the video.
        fps: frames a second of the video.
        frames_per_second: frames wanted a second.
        upbound: most frames; 0 for no bound.
        force: always take `upbound` frames.
    """
    import numpy as np

    indices = list(range(0, total, max(round(fps / frames_per_second), 1)))
    if upbound > 0 and (len(indices) > upbound or force):
        return np.linspace(0, total - 1, upbound, dtype=int).tolist()
    return indices


def read_video(
    path: str,
    fps: int = 1,
    frames_upbound: int = 0,
    force_sample: bool = False,
    start_s: float | None = None,
    end_s: float | None = None,
) -> Clip:
    """Decode the sampled frames of one video, or of a part of it as if it had been cut out.

    Args:
        path: of the file.
        fps: frames wanted a second.
        frames_upbound: most frames; 0 for no bound.
        force_sample: always take `frames_upbound` frames.
        start_s: where the part begins, in seconds after the first frame; None: with it.
        end_s: where it ends, in seconds; None: with the last frame.

    Raises:
        Ego2ExoError: decord is missing, the file does not decode, or it does not reach over the part.
    """
    with _opened(path) as reader:
        rate = reader.get_avg_fps()
        first, last = _part(reader, rate, path, start_s, end_s)
        indices = sample_indices(last - first, rate, fps, frames_upbound, force_sample)
        inside = [first + index for index in indices]
        frames = reader.get_batch(inside).asnumpy()
    return Clip(frames, [index / rate for index in indices], (last - first) / rate, inside, rate)


def video_seconds(path: str) -> float:
    """How long a video is, in seconds.

    Raises:
        Ego2ExoError: as :func:`read_video`.
    """
    with _opened(path) as reader:
        return _duration(_times(reader), reader.get_avg_fps())


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """decord's reader of a file; what it raises inside the block is told in one way."""
    try:
        import decord
    except ImportError as error:
        raise Ego2ExoError("decord is not installed", "", "pip install 'llava-ego2exo[eval]'") from error
    if not os.path.isfile(path):
        raise Ego2ExoError(f"video {path} is not there", "an existing file", "check the path")
    try:
        yield decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    except (RuntimeError, OSError, IndexError, decord.DECORDError) as error:
        lines = _NOISE.sub("", str(error)).strip().splitlines()
        reason = lines[-1] if lines else type(error).__name__
        raise Ego2ExoError(
            f"video {path} does not decode: {reason}", "a file that ffmpeg plays", "encode it again"
        ) from error


def _times(reader: Any) -> Any:
    """Seconds after the first frame at which each is shown."""
    import numpy as np

    times = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0]
    return times - times[0]


def _duration(times: Any, rate: float) -> float:
    return float(times[-1] + 1 / rate)


def _part(reader: Any, rate: float, path: str, start_s: float | None, end_s: float | None) -> tuple[int, int]:
    """(first, last + 1) frames that are shown from `start_s` on and before `end_s`."""
    if start_s is None and end_s is None:
        return 0, len(reader)
    import numpy as np

    # By the frames' own times: an average rate drifts away in a video of changing rate.
    times = _times(reader)
    duration, start, end = _duration(times, rate), start_s or 0.0, math.inf if end_s is None else end_s
    # Times in files are rounded to their time base, which may be a thousandth.
    first, last = (int(np.searchsorted(times, second - 0.0005)) for second in (start, end))
    if first >= last or (end_s is not None and end_s > duration + _MISSING_S):
        until = "its end" if end_s is None else f"{end_s:g} s"
        raise Ego2ExoError(
            f"video {path} lasts {duration:.2f} s, and the part is {start:g} s to {until}",
            "a part that lies inside the video",
            "mend start_s and end_s of the pair",
        )
    return first, last


def time_instruction(clip: Clip) -> str:
    """The sentence with which LLaVA-NeXT tells the model where the frames lie."""
    times = ",".join(f"{second:.2f}s" for second in clip.times)
    return (
        f"The video lasts for {clip.duration:.2f} seconds, and {len(clip.times)} frames are uniformly sampled from it. "
        f"These frames are located at {times}.Please answer the following questions related to this video."
    )
