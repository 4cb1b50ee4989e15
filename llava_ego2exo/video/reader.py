"""Sampled frames of a video, as LLaVA-NeXT reads them with decord."""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import dataclass
from typing import Any

from ..errors import Ego2ExoError
from .limits import VideoLimits
from .probe import check_memory, read_header
from .worker import WorkerPool

_DECODERS = {"av": "PyAV", "decord": "decord"}
_POOL = WorkerPool(*_DECODERS)
# How much shorter than its segment a video may be: the last frame's duration is a guess.
_MISSING_S = 0.5
# Times in files are rounded to their time base, which may be a millisecond.
_ROUNDING_S = 0.0005


@dataclass(frozen=True)
class Clip:
    """Sampled frames.

    Args:
        frames: (T, H, W, 3) uint8.
        times: seconds of each frame.
        duration: seconds of the whole video.
        indices: of the frames in the file, from 0.
        rate: average frames per second of the file.
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

    Args:
        path: of the file.
        fps: frames to sample per second.
        frames_upbound: maximum number of frames; 0 for no maximum.
        force_sample: always take `frames_upbound` frames.
        start_s: start of the segment, seconds after the first frame; None: the first frame.
        end_s: end of the segment in seconds; None: the end of the video.
        limits: maximum size, length and decoding time; None: the defaults.

    Raises:
        Ego2ExoError: decord or PyAV is missing; the file does not decode, hangs or crashes the decoder, exceeds
            `limits`, or ends before the segment does.
    """
    arguments = {
        "fps": fps, "frames_upbound": frames_upbound, "force_sample": force_sample, "start_s": start_s, "end_s": end_s,
    }  # fmt: skip
    found, frames = _call(_read_frames, path, limits, **arguments)
    rate, first, sampled = found["rate"], found["first"], found["sampled"]
    times, indices = [index / rate for index in sampled], [first + index for index in sampled]
    return Clip(frames, times, (found["last"] - first) / rate, indices, rate)


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


def require_decoders() -> None:
    """Refuse a run without the packages that decode videos."""
    missing = [name for module, name in _DECODERS.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise Ego2ExoError(f"{' and '.join(missing)} is not installed", "", "pip install 'llava-ego2exo[eval]'")


def time_instruction(clip: Clip) -> str:
    """LLaVA-NeXT's sentence about the times of the frames, as part of the prompt."""
    times = ",".join(f"{second:.2f}s" for second in clip.times)
    return (
        f"The video lasts for {clip.duration:.2f} seconds, and {len(clip.times)} frames are uniformly sampled from it. "
        f"These frames are located at {times}.Please answer the following questions related to this video."
    )


def _call(function: Any, path: str, limits: VideoLimits | None, **arguments: Any) -> tuple[Any, Any]:
    require_decoders()
    if not os.path.isfile(path):
        raise Ego2ExoError(f"video {path} is not there", "an existing file", "check the path")
    limits = limits or VideoLimits()
    arguments |= {"path": os.path.abspath(path), "limits": limits.to_dict()}
    return _POOL.call(function, arguments, limits, f"video {path}")


def _read_seconds(path: str, limits: dict[str, float]) -> float:
    """In a worker: the duration."""
    read_header(path, VideoLimits(**limits))
    reader, rate = _open(path)
    return _duration(_times(reader), rate)


def _read_frames(
    path: str, limits: dict[str, float], fps: int, frames_upbound: int, force_sample: bool,
    start_s: float | None, end_s: float | None,
) -> tuple[dict[str, Any], Any]:  # fmt: skip
    """In a worker: which frames, and (T, H, W, 3) uint8."""
    bounds = VideoLimits(**limits)
    header = read_header(path, bounds)
    reader, rate = _open(path)
    first, last = 0, len(reader)
    if start_s is not None or end_s is not None:
        first, last = _frame_range(_times(reader), rate, start_s, end_s)
    sampled = sample_indices(last - first, rate, fps, frames_upbound, force_sample)
    check_memory(len(sampled), header, bounds)
    try:
        frames = reader.get_batch([first + index for index in sampled]).asnumpy()
    except Exception as error:
        if "from_size == to_size" in str(error):  # rows of some widths are padded in memory
            raise ValueError(f"decord cannot read frames of width {header.width}") from error
        raise
    return {"first": first, "last": last, "sampled": sampled, "rate": rate}, frames


def _open(path: str) -> tuple[Any, float]:
    """decord's reader, and average frames per second."""
    import decord

    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    rate = float(reader.get_avg_fps())
    if not (len(reader) and math.isfinite(rate) and rate > 0):
        raise ValueError("it has no frame rate")
    return reader, rate


def _times(reader: Any) -> Any:
    """(frames,) seconds after the first frame."""
    import numpy as np

    times = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0]
    return times - times[0]


def _duration(times: Any, rate: float) -> float:
    """Seconds from the first frame to the end of the last; `times` are (frames,) seconds after the first."""
    return float(times[-1] + 1 / rate)


def _frame_range(times: Any, rate: float, start_s: float | None, end_s: float | None) -> tuple[int, int]:
    """First frame of a segment, and the first one after it; by their own times, as the rate may change."""
    import numpy as np

    duration, start, end = _duration(times, rate), start_s or 0.0, math.inf if end_s is None else end_s
    first, last = (int(np.searchsorted(times, second - _ROUNDING_S)) for second in (start, end))
    if first >= last or (end_s is not None and end_s > duration + _MISSING_S):
        until = "its end" if end_s is None else f"{end_s:g} s"
        raise Ego2ExoError(
            f"lasts {duration:.2f} s, but the segment is {start:g} s to {until}",
            "a segment inside the video",
            "correct start_s and end_s of the pair",
        )
    return first, last
