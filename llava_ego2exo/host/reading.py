"""How a run with ego tokens reads its clips: through our reader and cache, with the frames and times of LLaVA's own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..config import PREFIX, ReadingConfig
from ..video import Clip
from ..video.cache import Reader, ReaderSettings
from ..video.limits import VideoLimits
from .context import DISTILL

# LLaVA hands its data arguments down to whatever reads a sample.
_ATTRIBUTE = f"{PREFIX}reader"


def give_reader(data_args: Any) -> None:
    """Let a run's samples be read as its flags say; a run without ego tokens stays with LLaVA's own way."""
    if DISTILL.get() is not None:
        flags, limits = ReadingConfig.from_object(data_args), VideoLimits.from_object(data_args, PREFIX)
        setattr(data_args, _ATTRIBUTE, ReaderSettings(flags.frame_cache, flags.frame_cache_gb, limits).reader())


def reader_of(data_args: Any) -> Reader | None:
    """What :func:`give_reader` gave."""
    return getattr(data_args, _ATTRIBUTE, None)


def wrap_reader(original: Callable[..., Any]) -> Callable[..., Any]:
    """LLaVA-NeXT's `process_video_with_decord`."""

    @functools.wraps(original)
    def process_video_with_decord(video_file: Any, data_args: Any) -> Any:
        read = reader_of(data_args)
        if read is None:
            return original(video_file, data_args)
        clip = read(
            str(video_file), fps=data_args.video_fps, frames_upbound=data_args.frames_upbound,
            force_sample=data_args.force_sample,
        )  # fmt: skip
        return clip.frames, clip.duration, llava_times(clip, data_args), len(clip.indices)

    return process_video_with_decord


def llava_times(clip: Clip, data_args: Any) -> str:
    """The times of a whole video's frames as LLaVA-NeXT writes them.

    Where it takes every n-th frame it divides their numbers by n: it counts seconds only at `--video_fps 1` and a whole
    rate. Models have learned from these numbers, so they stay.
    """
    step = max(round(clip.rate / data_args.video_fps), 1)
    total, most = round(clip.duration * clip.rate), data_args.frames_upbound
    evenly = most > 0 and (len(range(0, total, step)) > most or data_args.force_sample)
    return ",".join(f"{index / (clip.rate if evenly else step):.2f}s" for index in clip.indices)
