"""Flags of every command that loads a model and shows it clips."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..video.limits import VideoLimits
from .video_flags import add_video_limits

if TYPE_CHECKING:
    from ..video.cache import ReaderSettings

DTYPES = ("float32", "bfloat16", "float16")


def add_asking(group: Any) -> None:
    """How a model is loaded and shown clips; fields of `runs.settings.Settings`.

    Args:
        group: of an argument parser.
    """
    group.add_argument("--bits", type=int, choices=(4, 8, 16), default=16, help="quantize to so many (default: 16)")
    group.add_argument("--dtype", choices=DTYPES, help="of the weights (default: bfloat16 on a GPU, else float32)")
    template = "LLaVA's conversation template (default: that of the checkpoint's class where only one fits)"
    group.add_argument("--template", metavar="NAME", help=template)
    frames = "most frames of a clip, evenly spaced; 0: no bound (default: 32)"
    group.add_argument("--frames-upbound", type=int, default=32, metavar="N", help=frames)
    group.add_argument("--video-fps", type=int, default=1, metavar="N", help="frames a second (default: 1)")
    sample = "always take --frames-upbound frames (default: as the checkpoint's config says)"
    group.add_argument("--force-sample", type=boolean, metavar="True|False", help=sample)
    times = "tell the model the times of its frames (default: as the checkpoint's config says)"
    group.add_argument("--time-instruction", type=boolean, metavar="True|False", help=times)
    add_video_limits(group)
    cache = "folder where decoded frames are kept, which training can share (default: none are kept)"
    group.add_argument("--frame-cache", metavar="DIR", help=cache)
    size = "most gigabytes (10^9 bytes) that it holds; what was used longest ago goes first (default: 20)"
    group.add_argument("--frame-cache-gb", type=float, default=20.0, metavar="N", help=size)


def take_reading(values: dict[str, Any]) -> ReaderSettings:
    """How clips are read, by the flags of :func:`add_asking`.

    Args:
        values: parsed flags; those that are used are taken out.

    Raises:
        Ego2ExoError: no run can read so.
    """
    from ..video.cache import ReaderSettings

    limits = {bound.name: values.pop(bound.name) for bound in fields(VideoLimits)}
    return ReaderSettings(values.pop("frame_cache"), values.pop("frame_cache_gb"), VideoLimits(**limits))


def boolean(text: str) -> bool:
    """A flag's value, True or False."""
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return known[text.lower()]
