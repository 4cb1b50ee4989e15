"""One question about one video, answered as `teach` and `eval` have a checkpoint answer it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from ...errors import Ego2ExoError
from ...video import read_video
from ...video.limits import VideoLimits
from .answerer import Answerer, explain_oom, load_answerer
from .clip_jobs import preface_of
from .settings import InferenceOptions, resolve_inference_settings

_OPTIONS = ("template", "frames_upbound", "video_fps", "force_sample", "time_instruction", "bits", "dtype")
# A command's flag without its dashes -> the argument of `ask`.
_ARGUMENTS = {name.replace("_", "-"): name for name in (*_OPTIONS, "max_new_tokens")}
_ARGUMENTS |= {limit.name.replace("_", "-"): f"{limit.name} of limits" for limit in fields(VideoLimits)}
_ARGUMENTS |= {"model": "student", "model-base": "base"}


@contextlib.contextmanager
def _arguments_named() -> Iterator[None]:
    """Errors name the arguments of :func:`ask`, where they name a command's flags."""
    try:
        yield
    except Ego2ExoError as error:
        texts = (error.given, error.allowed, error.remedy)
        flag = re.compile(r"--([a-z]+(?:-[a-z]+)*)(?![\w-])")
        named = (flag.sub(lambda match: _ARGUMENTS.get(match[1], match[0]), text) for text in texts)
        raise Ego2ExoError(*named) from error.__cause__


@_arguments_named()
def ask(
    student: str | Path | tuple[Any, Any, Any, Any], video: str | Path, question: str, base: str | Path | None = None,
    *, start_s: float | None = None, end_s: float | None = None, limits: VideoLimits | None = None,
    max_new_tokens: int = 256, **options: Any,
) -> str:  # fmt: skip
    """A greedy answer to one question about one video::

        from llava_ego2exo import ask
        print(ask("checkpoints/student", "kitchen.mp4", "What does the person do?", base="checkpoints/base"))

    Whatever is not given is taken from the checkpoint: its template, whether it always takes the same number of frames,
    and whether it is given their times.

    Args:
        student: folder or hub name of a checkpoint, which is loaded for this question; for several questions what
            LLaVA's `load_pretrained_model` returns: (tokenizer, model, image processor, context length).
        video: path of the file.
        question: without placeholder.
        base: what the student was trained from, where its folder holds no whole model.
        start_s: where the part to ask about begins, in seconds; None: at the start.
        end_s: where it ends; None: at the end.
        limits: what a video may be, and how long reading it may take; None: the defaults.
        max_new_tokens: most tokens of the answer.
        options: `template`, `frames_upbound`, `video_fps`, `force_sample`, `time_instruction`, and for a folder or hub
            name `bits` and `dtype`; see :class:`~.settings.InferenceOptions`.

    Raises:
        Ego2ExoError: an option is wrong, the video cannot be read (both before any weight loads), the student does not
            load, or the video is too long for it.
    """
    unknown = options.keys() - _OPTIONS
    if unknown:
        raise Ego2ExoError(f"ask has no option {', '.join(sorted(unknown))}", ", ".join(_OPTIONS), "correct the name")
    loaded = isinstance(student, tuple)
    unused = [name for name in ("dtype", "bits") if name in options] + (["base"] if base is not None else [])
    if loaded and unused:
        raise Ego2ExoError(
            f"{', '.join(unused)} for a model that is loaded already", "what asking needs",
            "leave it out, or give the checkpoint's folder",
        )  # fmt: skip
    config = student[1].config.to_dict() if loaded else None
    path = (config.get("_name_or_path") or "the model") if loaded else str(student)
    base = None if base is None else str(base)
    resolved = resolve_inference_settings(path, base, InferenceOptions(**options), max_new_tokens, config)
    clip = read_video(
        str(video), resolved.video_fps, resolved.frames_upbound, resolved.force_sample, start_s, end_s, limits
    )
    if loaded:
        answerer = Answerer(student, resolved.template, resolved.max_new_tokens)
    else:
        answerer = load_answerer(path, base, resolved)
    with explain_oom(1, 1, "take fewer frames (frames_upbound) or bits=4"):
        text = preface_of(clip, resolved) + question
        (answers,) = answerer.answer([answerer.preprocess(clip.frames)], [[text]])
    if isinstance(answers, Ego2ExoError):
        raise answers
    return answers[0].text
