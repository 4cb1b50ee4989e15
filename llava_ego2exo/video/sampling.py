"""Which frames of a video a model sees."""

from __future__ import annotations

import math
from typing import Any

from ..errors import Ego2ExoError

# How much shorter than its segment a video may be: the last frame's duration is a guess.
_MISSING_S = 0.5
# Times in files are rounded to their time base, which may be a millisecond.
_ROUNDING_S = 0.0005


def sample_indices(total: int, fps: float, frames_per_second: int, upbound: int, force: bool) -> list[int]:
    """LLaVA-NeXT's rule: `frames_per_second`, or `upbound` evenly spaced frames if that would be more.

    Args:
        total: frames in the video.
        fps: frames per second of the video.
        frames_per_second: frames to sample per second.
        upbound: maximum number of frames; 0 for no maximum.
        force: always take `upbound` frames.

    Returns:
        Ascending frame numbers from 0.
    """
    import numpy as np

    indices = list(range(0, total, max(round(fps / frames_per_second), 1)))
    if upbound > 0 and (len(indices) > upbound or force):
        return np.linspace(0, total - 1, upbound, dtype=int).tolist()
    return indices


def duration_of(times: Any, rate: float) -> float:
    """Seconds from the first frame to the end of the last.

    Args:
        times: (frames,) seconds after the first frame.
        rate: frames per second.
    """
    return float(times[-1] + 1 / rate)


def frame_range(times: Any, rate: float, start_s: float | None, end_s: float | None) -> tuple[int, int]:
    """First frame of a segment, and the first one after it.

    Args:
        times: (frames,) seconds after the first frame; an average rate would drift where the rate changes.
        rate: frames per second.
        start_s: start of the segment in seconds; None: the first frame.
        end_s: end of the segment in seconds; None: the end of the video.

    Raises:
        Ego2ExoError: the video ends before the segment; the message lacks the file's name.
    """
    import numpy as np

    duration, start, end = duration_of(times, rate), start_s or 0.0, math.inf if end_s is None else end_s
    first, last = (int(np.searchsorted(times, second - _ROUNDING_S)) for second in (start, end))
    if first >= last or (end_s is not None and end_s > duration + _MISSING_S):
        until = "its end" if end_s is None else f"{end_s:g} s"
        raise Ego2ExoError(
            f"lasts {duration:.2f} s, but the segment is {start:g} s to {until}",
            "a segment inside the video",
            "correct start_s and end_s of the pair",
        )
    return first, last
