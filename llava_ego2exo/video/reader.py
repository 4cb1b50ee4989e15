"""Frames of a video as LLaVA-NeXT takes them, for hosts that cannot read videos and for asking a question."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Any

from ..errors import Ego2ExoError
from .limits import VideoLimits, raising
from .pool import Pool
from .sampling import sample_indices
from .worker import Stopped

__all__ = [
    "Clip",
    "VideoLimits",
    "read_video",
    "sample_indices",
    "require_decoders",
    "time_instruction",
    "video_seconds",
]

_DECODERS = {"decord": "decord", "av": "PyAV"}
_READERS = Pool("llava_ego2exo.video.frames")


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


def read_video(
    path: str,
    fps: int = 1,
    frames_upbound: int = 0,
    force_sample: bool = False,
    start_s: float | None = None,
    end_s: float | None = None,
    limits: VideoLimits | None = None,
) -> Clip:
    """Decode the sampled frames of one video, or of a part of it as if it had been cut out.

    The decoder runs in a process of its own, which is kept for the next call.

    Args:
        path: of the file.
        fps: frames wanted a second.
        frames_upbound: most frames; 0 for no bound.
        force_sample: always take `frames_upbound` frames.
        start_s: where the part begins, in seconds after the first frame; None: with it.
        end_s: where it ends, in seconds; None: with the last frame.
        limits: what a video may be, and how long reading it may take; None: the defaults.

    Raises:
        Ego2ExoError: decord or PyAV is missing; the file does not decode, hangs or crashes the decoder, is larger or
            longer than `limits`, or does not reach over the part.
    """
    wanted = {
        "want": "frames", "fps": fps, "frames_upbound": frames_upbound, "force_sample": force_sample,
        "start_s": start_s, "end_s": end_s,
    }  # fmt: skip
    answer, frames = _ask(path, wanted, limits or VideoLimits())
    rate, first, sampled = answer["rate"], answer["first"], answer["sampled"]
    return Clip(
        frames,
        [index / rate for index in sampled],
        (answer["last"] - first) / rate,
        [first + index for index in sampled],
        rate,
    )


def video_seconds(path: str, limits: VideoLimits | None = None) -> float:
    """How long a video is, in seconds.

    Args:
        path: of the file.
        limits: as in :func:`read_video`.

    Raises:
        Ego2ExoError: as :func:`read_video`.
    """
    return _ask(path, {"want": "seconds"}, limits or VideoLimits())[0]["seconds"]


def _ask(path: str, wanted: dict[str, Any], limits: VideoLimits) -> tuple[dict[str, Any], Any]:
    """A reader's answer, and the frames that came with it."""
    require_decoders()
    if not os.path.isfile(path):
        raise Ego2ExoError(f"video {path} is not there", "an existing file", "check the path")
    request = {"path": os.path.abspath(path), **limits.request(), **wanted}
    frames = None
    try:
        with _READERS.worker() as reader:
            answer = reader.ask(request, limits.video_limit_s)
            if "shape" in answer:
                frames = reader.frames(answer["shape"], limits.most_bytes)
    except Stopped as stopped:
        remedy = raising("video_limit_s") if stopped.late else "encode it again, or take it out"
        raise Ego2ExoError(f"video {path} {stopped}", "a file that ffmpeg plays", remedy) from stopped
    if "refused" in answer:
        reason, allowed, remedy = answer["refused"]
        raise Ego2ExoError(f"video {path} {reason}", allowed, remedy)
    return answer, frames


def require_decoders() -> None:
    """Refuse to begin what will read videos without the packages for it.

    Raises:
        Ego2ExoError: decord or PyAV is not installed.
    """
    missing = [name for module, name in _DECODERS.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise Ego2ExoError(f"{' and '.join(missing)} is not installed", "", "pip install 'llava-ego2exo[eval]'")


def time_instruction(clip: Clip) -> str:
    """The sentence with which LLaVA-NeXT tells the model where the frames lie."""
    times = ",".join(f"{second:.2f}s" for second in clip.times)
    return (
        f"The video lasts for {clip.duration:.2f} seconds, and {len(clip.times)} frames are uniformly sampled from it. "
        f"These frames are located at {times}.Please answer the following questions related to this video."
    )
