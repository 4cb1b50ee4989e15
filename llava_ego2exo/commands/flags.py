"""Flags that several subcommands share: data files, videos, models."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..video.limits import VideoLimits

if TYPE_CHECKING:
    from ..video.cache import ReaderSettings

DTYPES = ("float32", "bfloat16", "float16")


def add_max_json(parser: Any) -> None:
    """`--max-json-mb`, applied by :func:`llava_ego2exo.cli.main`."""
    text = "largest JSON or table that is read as a whole, in MiB (default: 512)"
    parser.add_argument("--max-json-mb", type=int, metavar="N", help=text)


def apply_data_flags(args: argparse.Namespace) -> None:
    """Apply what :func:`add_max_json` read, and take it out of the arguments.

    Raises:
        Ego2ExoError: it is below 1.
    """
    given = vars(args).pop("max_json_mb", None)
    if given is not None:
        from ..common.json_io import set_max_mb

        set_max_mb(given)


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


def add_model_flags(group: Any) -> None:
    """How a model is loaded and clips are read; fields of `host.inference.settings.Settings`.

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
    times = "give the model the times of its frames (default: as the checkpoint's config says)"
    group.add_argument("--time-instruction", type=boolean, metavar="True|False", help=times)
    add_video_limits(group)
    cache = "folder where decoded frames are kept, which training can share (default: none are kept)"
    group.add_argument("--frame-cache", metavar="DIR", help=cache)
    size = "most gigabytes (10^9 bytes) that it holds; what was used longest ago goes first (default: 20)"
    group.add_argument("--frame-cache-gb", type=float, default=20.0, metavar="N", help=size)


def take_reader_settings(values: dict[str, Any]) -> ReaderSettings:
    """How clips are read, by the flags of :func:`add_model_flags`.

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
