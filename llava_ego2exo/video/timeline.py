"""When the frames of a video are shown, from the times that packets or decoded frames have."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

from ..errors import Ego2ExoError

# How far decoders reorder frames; times that differ more from their order are no presentation times.
_REORDERED = 16
# Times in files are rounded to their time base, which may be a millisecond.
ROUNDING_S = 0.0005
# How much shorter than its segment a video may be: the last frame's duration is a guess.
MISSING_S = 0.5


class Timeline(NamedTuple):
    """When the frames are shown.

    Args:
        times: (frames,) seconds after the first shown frame, increasing.
        duration: seconds from the first frame to the end of the last.
        rate: frames per second; their average where it changes.
        constant: whether frame i is shown at i / rate.
    """

    times: Any
    duration: float
    rate: float
    constant: bool

    def part(self, start_s: float | None, end_s: float | None, missing_s: float = MISSING_S) -> tuple[int, int]:
        """First frame of a segment, and the first one after it; the error lacks the file's name."""
        import numpy as np

        start, end = start_s or 0.0, inf if end_s is None else end_s
        first, last = (int(np.searchsorted(self.times, second - ROUNDING_S)) for second in (start, end))
        if first >= last or (end_s is not None and end_s > self.duration + missing_s):
            until = "its end" if end_s is None else f"{end_s:g} s"
            raise Ego2ExoError(
                f"lasts {self.duration:.2f} s, but the segment is {start:g} s to {until}",
                "a segment inside the video",
                "correct its start_s and end_s",
            )
        return first, last


def in_order(ticks: Sequence[int | None]) -> list[int] | None:
    """Times in the order of presentation; None if they are no presentation times."""
    if None in ticks:
        return None
    order = sorted(range(len(ticks)), key=ticks.__getitem__)
    ordered = [ticks[index] for index in order]
    if any(abs(new - old) > _REORDERED for new, old in enumerate(order)) or len(set(ordered)) < len(ordered):
        return None
    return ordered


def timeline_of(ticks: Sequence[int | None], base: Any, header_rate: float, last: int) -> Timeline:
    """From times in the time base, as frames are shown; those that are missing are interpolated."""
    import numpy as np

    ordered, count, numbers = in_order(ticks), len(ticks), np.arange(len(ticks))
    times = _interpolated(ticks, float(base), header_rate) if ordered is None else np.array(ordered) * float(base)
    times = times - times[0]
    for rate in (header_rate, (count - 1) / times[-1] if count > 1 else header_rate):
        # Both ends of a time are rounded to the time base, or to milliseconds before.
        if np.abs(times - numbers / rate).max() <= max(0.0015, min(float(base), 0.1 / rate)):
            return Timeline(numbers / rate, count / rate, rate, True)
    # Recorders give the last frame a duration of almost nothing.
    duration = float(times[-1] + max(last * base, np.median(np.diff(times))))
    return Timeline(times, duration, count / duration, False)


def _interpolated(ticks: Sequence[int | None], base: float, rate: float) -> Any:
    """Seconds that increase where few times are known: at a constant rate, unless the known ones contradict it."""
    import numpy as np

    known: list[tuple[int, float]] = []
    for index, tick in enumerate(ticks):
        if tick is not None and (not known or tick * base > known[-1][1]):
            known.append((index, tick * base))
    numbers = np.arange(len(ticks))
    if not known:
        return numbers / rate
    places, values = map(np.array, zip(*known, strict=True))
    # The time of a block of data may be given to a neighbour of its frame.
    if np.abs(values - values[0] - (places - places[0]) / rate).max() < MISSING_S:
        return numbers / rate
    outside = np.minimum(numbers - places[0], 0) + np.maximum(numbers - places[-1], 0)
    return np.interp(numbers, places, values) + outside / rate
