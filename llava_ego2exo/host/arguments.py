"""LLaVA's three argument classes with the plugin's flags added: subclasses, so that LLaVA's parser reads both."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

from ..config import PREFIX, Ego2ExoConfig

_TYPES = {"int": int, "str": str, "bool": bool, "float | None": Optional[float]}  # noqa: UP045 (HfArgumentParser)

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
    for flag in dataclasses.fields(Ego2ExoConfig):
        fields.append((PREFIX + flag.name, _TYPES[str(flag.type)], _field(flag.default, flag.metadata["help"])))
    return _extend(original, fields)


def with_data_flags(original: type) -> type:
    """`DataArguments` with LLaVA-NeXT's video flags where the host lacks them."""
    return _extend(
        original, [(name, kind, _field(default, text)) for name, (kind, default, text) in _VIDEO_FLAGS.items()]
    )


def with_training_flags(original: type) -> type:
    """`TrainingArguments` with `--trainer_type`."""
    text = "Registered trainer to use; unset: `ego2exo` for a model with ego tokens, else LLaVA's own."
    return _extend(original, [("trainer_type", Optional[str], _field(None, text))])  # noqa: UP045
