"""What several subcommands share: flags of data files, videos and models, and a report printed once."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from ..video.limits import VideoLimits

DTYPES = ("float32", "bfloat16", "float16")


def add_max_json(parser: Any) -> None:
    """`--max-json-mb`, applied by :func:`llava_ego2exo.cli.main`."""
    text = "largest JSON or table that is read as a whole, in MiB (default: 512)"
    parser.add_argument("--max-json-mb", type=int, metavar="N", help=text)


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
        text, unit = bound.metadata["help"], bound.name.rpartition("_")[2][:1].upper()
        text = f"{text[0].lower()}{text[1:].rstrip('.')} (default: {bound.default:g})"
        flag = f"--{bound.name.replace('_', '-')}"
        group.add_argument(flag, type=float, default=bound.default, metavar=unit, help=text)


def add_model_flags(group: Any) -> None:
    """How a model is loaded and sees a video; fields of `host.inference.settings.InferenceOptions`."""
    group.add_argument("--bits", type=int, choices=(4, 8, 16), default=16, help="quantize to so many (default: 16)")
    group.add_argument("--dtype", choices=DTYPES, help="of the weights (default: bfloat16 on a GPU, else float32)")
    template = "LLaVA's conversation template (default: that of the checkpoint's class where only one fits)"
    group.add_argument("--template", metavar="NAME", help=template)
    frames = "most frames of a clip, evenly spaced; 0: no bound (default: 32)"
    group.add_argument("--frames-upbound", type=int, default=32, metavar="N", help=frames)
    group.add_argument("--video-fps", type=int, default=1, metavar="N", help="frames a second (default: 1)")
    sample = "always take --frames-upbound frames (default: as the checkpoint's config says)"
    group.add_argument("--force-sample", type=_boolean, metavar="True|False", help=sample)
    times = "give the model the times of its frames (default: as the checkpoint's config says)"
    group.add_argument("--time-instruction", type=_boolean, metavar="True|False", help=times)


def add_reading_flags(group: Any) -> None:
    """How clips are read; fields of `video.cache.ReaderSettings`."""
    add_video_limits(group)
    cache = "folder where decoded frames are kept, which training can share (default: none are kept)"
    group.add_argument("--frame-cache", metavar="DIR", help=cache)
    size = "most gigabytes (10^9 bytes) that it holds; what was used longest ago goes first (default: 20)"
    group.add_argument("--frame-cache-gb", type=float, default=20.0, metavar="N", help=size)


def add_served_flags(group: Any) -> None:
    """Of a model behind an OpenAI-compatible port, openai:http://HOST:PORT/v1#NAME."""
    side = "of a model openai:URL#NAME: longest side of its pictures, in pixels (default: as they are)"
    group.add_argument("--image-side", type=int, default=0, metavar="N", help=side)
    quality = "of such a model: JPEG quality of its pictures (default: 90)"
    group.add_argument("--image-quality", type=int, default=90, metavar="N", help=quality)
    key = "of such a model: environment variable with its key (default: none is sent)"
    group.add_argument("--api-key-env", metavar="NAME", help=key)


def _boolean(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return known[text.lower()]


def job_values(args: argparse.Namespace, job: type) -> dict[str, Any]:
    """The parsed flags that are fields of a job, and how it reads clips.

    Raises:
        Ego2ExoError: no run can read so.
    """
    from ..video.cache import ReaderSettings

    values = {one.name: getattr(args, one.name) for one in fields(job) if hasattr(args, one.name)}
    reading = ReaderSettings(args.frame_cache, args.frame_cache_gb, VideoLimits.from_object(args))
    return {**values, "reading": reading}


def print_report(work: Callable[[], tuple[str, int]]) -> int:
    """Print the report of what several processes may do together, on the first of them alone.

    Args:
        work: returns the report and the exit code. What LLaVA prints meanwhile goes to stderr.

    Returns:
        The exit code; 130 when the user stopped it.
    """
    from ..common.processes import is_first

    try:
        with contextlib.redirect_stdout(sys.stderr):
            text, code = work()
    except KeyboardInterrupt:
        print("stopped; the same command resumes from here", file=sys.stderr)
        return 130
    if is_first():
        print(text)
    return code
