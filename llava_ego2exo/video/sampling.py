"""Which frames of a video a model sees."""

from __future__ import annotations

import math
from typing import Any

from ..errors import Ego2ExoError

# How much a video may be shorter than its segment: the last frame's length is a guess.
_MISSING_S = 0.5


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


def duration_of(times: Any, rate: float) -> float:
    """Seconds from the first frame to the end of the last.

    Args:
        times: (frames,) seconds at which each is shown, from 0.
        rate: frames a second.
    """
    return float(times[-1] + 1 / rate)


def part_of(times: Any, rate: float, start_s: float | None, end_s: float | None) -> tuple[int, int]:
    """(first, last + 1) frames that are shown from `start_s` on and before `end_s`.

    Args:
        times: (frames,) seconds at which each is shown, from 0. An average rate drifts away where the rate changes.
        rate: frames a second.
        start_s: where the part begins, in seconds; None: with the first frame.
        end_s: where it ends, in seconds; None: with the last frame.

    Raises:
        Ego2ExoError: the video does not reach over the part; the message is to be read after its name.
    """
    import numpy as np

    duration, start, end = duration_of(times, rate), start_s or 0.0, math.inf if end_s is None else end_s
    # Times in files are rounded to their time base, which may be a thousandth.
    first, last = (int(np.searchsorted(times, second - 0.0005)) for second in (start, end))
    if first >= last or (end_s is not None and end_s > duration + _MISSING_S):
        until = "its end" if end_s is None else f"{end_s:g} s"
        raise Ego2ExoError(
            f"lasts {duration:.2f} s, and the part is {start:g} s to {until}",
            "a part that lies inside the video",
            "mend start_s and end_s of the pair",
        )
    return first, last
