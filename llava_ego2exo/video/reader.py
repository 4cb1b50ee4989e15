"""Sampled frames of a video, by LLaVA-NeXT's rule."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from typing import Any

from ..errors import Ego2ExoError, refuse
from .frames import VideoFrames, check_memory, require_av, upright, use_video
from .limits import VideoLimits
from .timeline import ROUNDING_S, Timeline
from .worker import WorkerPool, empty_array

_POOL = WorkerPool("av")
atexit.register(_POOL.close)


@dataclass(frozen=True)
class Clip:
    """Sampled frames.

    Args:
        frames: (T, H, W, 3) uint8.
        times: seconds of each frame after the first of the video or segment.
        duration: seconds of the video or segment.
        indices: of the frames among those that players show, from 0.
        rate: average frames per second.
    """

    frames: Any
    times: list[float]
    duration: float
    indices: list[int]
    rate: float


def read_video(
    path: str, fps: int = 1, frames_upbound: int = 0, force_sample: bool = False, start_s: float | None = None,
    end_s: float | None = None, limits: VideoLimits | None = None,
) -> Clip:  # fmt: skip
    """Decode the sampled frames of a video, or of a segment of it as if the segment were a file.

    Frames are those that players show, upright; times are theirs. Where the rate is constant they are LLaVA-NeXT's
    own; where it changes, frames are evenly spaced in time instead of by number.

    Args:
        path: of the file.
        fps: frames to sample per second.
        frames_upbound: maximum number of frames; 0 for no maximum.
        force_sample: always take `frames_upbound` frames.
        start_s: start of the segment, seconds after the first frame; None: the first frame.
        end_s: end of the segment in seconds; None: the end of the video.
        limits: maximum size, length and decoding time; None: the defaults.

    Raises:
        Ego2ExoError: PyAV is missing; `fps` or `frames_upbound` is out of range; the file does not decode, hangs or
            crashes the decoder, exceeds `limits`, or ends before the segment does.
    """
    refuse(
        (not fps > 0, f"fps {fps}", "more than 0", "1 is a frame a second"),
        (frames_upbound < 0, f"frames_upbound {frames_upbound}", "0 or more", "0 is no maximum"),
    )
    arguments = {
        "fps": fps, "frames_upbound": frames_upbound, "force_sample": force_sample, "start_s": start_s, "end_s": end_s,
    }  # fmt: skip
    values, frames = _call(_read_frames, path, limits, **arguments)
    return Clip(frames, **values)


def video_seconds(path: str, limits: VideoLimits | None = None) -> float:
    """Duration of a video in seconds; errors as :func:`read_video`."""
    return _call(_read_seconds, path, limits)[0]


def sample_indices(total: int, fps: float, frames_per_second: int, upbound: int, force: bool) -> list[int]:
    """Frame numbers by LLaVA-NeXT's rule: `frames_per_second`, or `upbound` evenly spaced ones if that would be more.

    `total` and `fps` are the video's; `upbound` 0 is no maximum, and `force` always takes so many.
    """
    import numpy as np

    indices = list(range(0, total, max(round(fps / frames_per_second), 1)))
    if upbound > 0 and (len(indices) > upbound or force):
        return np.linspace(0, total - 1, upbound, dtype=int).tolist()
    return indices


def time_instruction(clip: Clip) -> str:
    """LLaVA-NeXT's sentence about the times of the frames, as part of the prompt."""
    times = ",".join(f"{second:.2f}s" for second in clip.times)
    return (
        f"The video lasts for {clip.duration:.2f} seconds, and {len(clip.times)} frames are uniformly sampled from it. "
        f"These frames are located at {times}.Please answer the following questions related to this video."
    )


def _call(function: Any, path: str, limits: VideoLimits | None, **arguments: Any) -> tuple[Any, Any]:
    require_av()
    if not os.path.isfile(path):
        fault = "is a folder" if os.path.isdir(path) else "is not there"
        raise Ego2ExoError(f"video {path} {fault}", "an existing file", "check the path")
    limits = limits or VideoLimits()
    arguments |= {"path": os.path.abspath(path), "limits": limits.to_dict()}
    return _POOL.call(function, arguments, limits, f"video {path}")


def _read_seconds(path: str, limits: dict[str, float]) -> float:
    """In a worker: the duration."""
    return use_video(path, VideoLimits(**limits), lambda video: video.timeline.duration)


def _read_frames(
    path: str, limits: dict[str, float], fps: int, frames_upbound: int, force_sample: bool,
    start_s: float | None, end_s: float | None,
) -> tuple[dict[str, Any], Any]:  # fmt: skip
    """In a worker: the values of a :class:`Clip`, and (T, H, W, 3) uint8."""
    bounds = VideoLimits(**limits)

    def read(video: VideoFrames) -> tuple[dict[str, Any], Any]:
        part, first = _segment(video.timeline, start_s, end_s)
        sampled = _sampled(part, fps, frames_upbound, force_sample)
        values = {
            "times": part.times[sampled].tolist(), "duration": part.duration,
            "indices": [first + index for index in sampled], "rate": part.rate,
        }  # fmt: skip
        return values, _pictures(video, values["indices"], bounds)

    return use_video(path, bounds, read)


def _segment(whole: Timeline, start_s: float | None, end_s: float | None) -> tuple[Timeline, int]:
    """The segment as if it were a file, and its first frame in the file."""
    if start_s is None and end_s is None:
        return whole, 0
    first, last = whole.part(start_s, end_s)
    count = last - first
    if whole.constant:
        return Timeline(whole.times[:count], count / whole.rate, whole.rate, True), first
    ends = whole.duration if last == len(whole.times) else whole.times[last]
    duration = float(ends - whole.times[first])
    return Timeline(whole.times[first:last] - whole.times[first], duration, count / duration, False), first


def _sampled(part: Timeline, fps: float, upbound: int, force: bool) -> list[int]:
    """Frame numbers: by LLaVA-NeXT's rule, or where the rate changes those shown at evenly spaced times."""
    import numpy as np

    if part.constant:
        return sample_indices(len(part.times), part.rate, fps, upbound, force)
    wanted = np.arange(0, part.duration, 1 / fps)
    if upbound > 0 and (len(wanted) > upbound or force):
        wanted = np.linspace(0, part.times[-1], upbound)
    shown = np.searchsorted(part.times, wanted + ROUNDING_S, side="right") - 1
    return (shown if force and upbound else np.unique(shown)).tolist()


def _pictures(video: VideoFrames, indices: list[int], limits: VideoLimits) -> Any:
    """(T, H, W, 3) uint8; frames of another size than the first are scaled to it."""
    pictures, places = None, {}
    for place, index in enumerate(indices):
        places.setdefault(index, []).append(place)
    for index, frame in video.frames(sorted(places)):
        if pictures is None:
            check_memory(len(indices), frame.width, frame.height, limits)
            width, height = frame.width, frame.height
        picture = upright(frame, width, height)
        if pictures is None:
            pictures = empty_array((len(indices), *picture.shape))
        pictures[places[index]] = picture
    return pictures
