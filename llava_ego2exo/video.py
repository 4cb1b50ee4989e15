"""Frames of a video as LLaVA-NeXT takes them, for hosts that cannot read videos and for asking a question."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from .errors import Ego2ExoError


@dataclass(frozen=True)
class Clip:
    """Sampled frames.

    Args:
        frames: (T, H, W, 3) uint8.
        times: seconds of each frame.
        duration: seconds of the whole video.
    """

    frames: Any
    times: list[float]
    duration: float


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


def read_video(path: str, fps: int = 1, frames_upbound: int = 0, force_sample: bool = False) -> Clip:
    """Decode the sampled frames of one video.

    Raises:
        Ego2ExoError: decord is missing, or the file does not decode.
    """
    try:
        import decord
    except ImportError as error:
        raise Ego2ExoError("decord is not installed", "", "pip install 'llava-ego2exo[eval]'") from error
    if not os.path.isfile(path):
        raise Ego2ExoError(f"video {path} is not there", "an existing file", "check the path")
    try:
        reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        rate, total = reader.get_avg_fps(), len(reader)
        indices = sample_indices(total, rate, fps, frames_upbound, force_sample)
        frames = reader.get_batch(indices).asnumpy()
    except (RuntimeError, OSError, IndexError, decord.DECORDError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise Ego2ExoError(
            f"video {path} does not decode: {reason}", "a file that ffmpeg plays", "encode it again"
        ) from error
    return Clip(frames, [index / rate for index in indices], total / rate)


def time_instruction(clip: Clip) -> str:
    """The sentence with which LLaVA-NeXT tells the model where the frames lie."""
    times = ",".join(f"{second:.2f}s" for second in clip.times)
    return (
        f"The video lasts for {clip.duration:.2f} seconds, and {len(clip.times)} frames are uniformly sampled from it. "
        f"These frames are located at {times}.Please answer the following questions related to this video."
    )
