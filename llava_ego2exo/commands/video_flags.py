"""Flags of every command that decodes videos."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from ..video.limits import VideoLimits


def add_video_limits(parser: Any, frames: bool = True) -> None:
    """What a video may be; fields of `video.limits.VideoLimits`.

    Args:
        parser: an argument parser or a group of one.
        frames: whether the command takes frames into memory, whose size is then bounded too.
    """
    group = parser.add_argument_group("videos") if isinstance(parser, argparse.ArgumentParser) else parser
    for bound in fields(VideoLimits):
        if bound.name == "video_max_gib" and not frames:
            continue
        text = bound.metadata["help"]
        text = f"{text[0].lower()}{text[1:].rstrip('.')} (default: {bound.default:g})"
        unit = bound.name.rpartition("_")[2][:1].upper()
        group.add_argument(
            f"--{bound.name.replace('_', '-')}", type=float, default=bound.default, metavar=unit, help=text
        )


def video_limits(args: argparse.Namespace) -> VideoLimits:
    """The bounds that were given.

    Args:
        args: parsed, with the flags of :func:`add_video_limits`.

    Raises:
        Ego2ExoError: one is no number above 0.
    """
    return VideoLimits.from_object(args)
