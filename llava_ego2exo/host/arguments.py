"""LLaVA's three argument classes with the plugin's flags added: subclasses, so that LLaVA's parser reads both."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

from ..config import PREFIX, PRESETS, Ego2ExoConfig
from ..run_config import BottleneckConfig, DistillConfig, ReadingConfig
from ..video.limits import VideoLimits

_TYPES: dict[str, Any] = {
    "int": int, "str": str, "bool": bool, "float": float,
    "float | None": Optional[float], "str | None": Optional[str],  # noqa: UP045 (HfArgumentParser)
}  # fmt: skip

# What llava-torch lacks for videos; names, defaults and meaning are LLaVA-NeXT's.
_VIDEO_FLAGS: dict[str, tuple[Any, Any, str]] = {
    "video_folder": (Optional[str], None, "Folder that the videos' paths are relative to."),  # noqa: UP045
    "video_fps": (int, 1, "Frames taken a second."),
    "frames_upbound": (int, 0, "At most this many frames a video, evenly spaced; 0 for no bound."),
    "add_time_instruction": (bool, False, "Tell the model the video's length and the frames' times."),
    "force_sample": (bool, False, "Always take frames_upbound frames."),
}


def _extend(original: type, fields: list[tuple[str, Any, Any]]) -> type:
    known = {field.name for field in dataclasses.fields(original)}
    new = [field for field in fields if field[0] not in known]
    made = dataclasses.make_dataclass(original.__name__, new, bases=(original,))
    made.__module__, made.__wrapped__ = original.__module__, original  # type: ignore[attr-defined]
    return made


def _field(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text})


def with_model_flags(original: type) -> type:
    """`ModelArguments` with `--ego2exo` and every flag of :class:`Ego2ExoConfig`."""
    fields = [("ego2exo", bool, _field(False, "Train a student with Ego Adaptive Visual Tokens (Ego2ExoVLM)."))]
    return _extend(original, [*fields, *_flags_of(Ego2ExoConfig)])


def _flags_of(config: type) -> list[tuple[str, Any, Any]]:
    return [
        (PREFIX + flag.name, _TYPES[str(flag.type)], _field(flag.default, flag.metadata["help"]))
        for flag in dataclasses.fields(config)
    ]


def with_data_flags(original: type) -> type:
    """`DataArguments` with LLaVA-NeXT's video flags where the host lacks them, and those of :class:`ReadingConfig`."""
    return with_reading_flags(with_video_flags(original))


def with_video_flags(original: type) -> type:
    """`DataArguments` with LLaVA-NeXT's video flags where the host lacks them."""
    return _extend(
        original, [(name, kind, _field(default, text)) for name, (kind, default, text) in _VIDEO_FLAGS.items()]
    )


def with_reading_flags(original: type) -> type:
    """`DataArguments` with the flags of :class:`ReadingConfig` and :class:`VideoLimits` alone."""
    return _extend(original, [*_flags_of(ReadingConfig), *_flags_of(VideoLimits)])


def with_training_flags(original: type) -> type:
    """`TrainingArguments` with the flags of a run, and every flag of :class:`DistillConfig`."""
    return with_distilling_flags(with_run_flags(original))


def with_run_flags(original: type) -> type:
    """`TrainingArguments` with the flags of a run: its trainer, tower's type, last check, preset and stages."""
    flags = {
        "trainer_type": (None, "Registered trainer to use; unset: `ego2exo` for a model with ego tokens, else LLaVA's "
                         "own."),
        "vision_tower_dtype": (None, "Type the tower computes in: float32, bfloat16 or float16; unset: LLaVA's own, "
                               "float16 without --bf16."),
        "ego2exo_check_saved": ("auto", "Load what was saved and compare an answer with the model in memory: `True`, "
                                "`False`, or if it fits: `auto`."),
        "ego2exo_preset": (None, f"Settings under one name ({', '.join(PRESETS)}), for what is not given."),
    }  # fmt: skip
    named = [(name, Optional[str], _field(*flag)) for name, flag in flags.items()]  # noqa: UP045
    return _extend(original, [*named, *_flags_of(BottleneckConfig)])


def with_distilling_flags(original: type) -> type:
    """`TrainingArguments` with the flags of :class:`DistillConfig` alone."""
    return _extend(original, _flags_of(DistillConfig))
