"""How a run with ego tokens reads its clips: through our reader and cache, with the frames and times of LLaVA's own."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...config import PREFIX, ReadingConfig
from ...errors import Ego2ExoError
from ...video import Clip
from ...video.cache import Reader, ReaderSettings
from ...video.limits import VideoLimits
from ..settings.context import DISTILL

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


# The top-k logits that `teach --top-k` stored, one file an answer: `top_k/<first 2 of key>/<key>.npz`.

ARRAYS = ("tokens", "ids", "logits")


def file_of(folder: str | Path, key: str) -> Path:
    """Where the logits of an answer lie."""
    return Path(folder, "top_k", key[:2], f"{key}.npz")


def is_key(key: Any) -> bool:
    """Whether this is an answer's key, and no path in disguise."""
    return isinstance(key, str) and re.fullmatch(r"[0-9a-f]{32}", key) is not None


def read_logits(folder: str | Path, key: str) -> dict[str, Any]:
    """The arrays of an answer: `tokens` (T,), `ids` (T, k) and `logits` (T, k), numpy.

    Raises:
        Ego2ExoError: the file is missing or holds something else.
    """
    import numpy as np

    file = file_of(folder, key)
    remedy = "run the same `llava-ego2exo teach` again with --top-k"
    if not file.is_file():
        raise Ego2ExoError(f"no top-k logits at {file}", "answers made with `llava-ego2exo teach --top-k K`", remedy)
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ARRAYS}
    except Exception as error:  # changed bytes make zip, zlib and numpy throw whatever they like, MemoryError too
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Ego2ExoError(f"{file} is damaged: {reason}", "", f"delete it, and {remedy}") from error
    tokens, ids, logits = (arrays[name] for name in ARRAYS)
    if tokens.ndim != 1 or ids.ndim != 2 or ids.shape != logits.shape or ids.shape[0] != tokens.shape[0]:
        shapes = ", ".join(f"{name} {value.shape}" for name, value in arrays.items())
        raise Ego2ExoError(f"top-k logits {file} have shapes {shapes}", "tokens (T,), ids (T, k), logits (T, k)")
    return arrays
