"""LLaVA's training JSON: every sample is checked before any weight loads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from ...common.json_io import read_json, read_json_lines, set_max_mb
from ...common.text import shorten_list
from ...config import PREFIX, Ego2ExoConfig
from ...errors import Ego2ExoError
from ..settings import Settings, data_files

_ABSENT = "is not there"
_FORM = (
    '{"id", "video" or "image", "conversations": [{"from": "human", "value": "<image>\\n..."}, '
    '{"from": "gpt", "value": "..."}]} with files under --video_folder and --image_folder'
)
MAX_JSON_MB = f"{PREFIX}max_json_mb"


def check_data(settings: Settings, flags: Ego2ExoConfig, extra: Any = None) -> list[dict[str, Any]]:
    """Every sample's conversations, placeholders and files.

    Args:
        settings: the run's.
        flags: the plugin's.
        extra: :class:`.SampleCheck`, for samples whose form is right.

    Returns:
        All samples.

    Raises:
        Ego2ExoError: names the first few faulty samples by file and index, and counts the rest.
    """
    if settings[MAX_JSON_MB] is not None:
        set_max_mb(settings[MAX_JSON_MB], f"--{MAX_JSON_MB}")
    samples, faults, allowed, remedies = [], [], [_FORM], []
    for file in data_files(settings):
        for index, sample in enumerate(read_samples(file)):
            found = list(sample_faults(sample, settings, flags))
            if extra is not None and not found:
                found = list(extra(sample))
                if found and len(allowed) == 1:
                    allowed.append(extra.allowed)
                    remedies.append(extra.remedy)
            faults += [f"{file}[{index}]: {fault}" for fault in found]
            samples.append(sample)
    if faults:
        if any(fault.endswith(_ABSENT) for fault in faults):
            folders = ("video_folder", "image_folder")
            remedies += [f"check --{name} ({settings[name] or 'not given'})" for name in folders]
        raise Ego2ExoError(
            f"{len(faults)} fault(s) in the training data: {shorten_list(faults)}",
            ", and ".join(allowed),
            "; ".join([*remedies, "fix or remove these samples"]),
        )
    return samples


def read_samples(file: str) -> list[Any]:
    """The samples of one JSON or JSONL file.

    Raises:
        Ego2ExoError: it is no JSON, or no list, or empty.
    """
    what = "a JSON list of samples"
    # LLaVA itself refuses a byte order mark.
    if file.endswith(".jsonl"):
        samples: Any = read_json_lines(file, what, "utf-8")
    else:
        samples = read_json(file, what, "utf-8")
    if not isinstance(samples, list) or not samples:
        given = f"{file} holds {type(samples).__name__} {str(samples)[:40]!r}"
        raise Ego2ExoError(given, "a JSON list of samples, one or more", "put the samples in [...], or check the path")
    return samples


def sample_faults(sample: Any, folders: Settings | Mapping[str, Any], flags: Ego2ExoConfig) -> Iterator[str]:
    """What is wrong with one sample: its form, its placeholders and its files.

    Args:
        sample: one object of the JSON list.
        folders: maps `video_folder` and `image_folder`; None is the folder that the run is started in.
        flags: the plugin's, which say what gets tokens.
    """
    if not isinstance(sample, dict):
        yield f"is a {type(sample).__name__}, not an object"
        return
    turns = sample.get("conversations")
    if not isinstance(turns, list) or not turns:
        yield "has no conversations"
        return
    if not all(isinstance(turn, dict) and {"from", "value"} <= turn.keys() for turn in turns):
        yield "has a turn without `from` and `value`"
        return
    text = "".join(str(turn["value"]) for turn in turns)
    kind = "image" if "image" in sample else "video" if "video" in sample else None
    if kind == "image" and not flags.visual_tokens and "image" not in flags.modality_set:
        yield "is an image, which --ego2exo_visual_tokens False leaves without any token"
    if kind is None:
        if "<image>" in text:
            yield "has a <image> placeholder but neither video nor image"
        return
    if kind == "video" and not isinstance(sample["video"], str):
        yield f"has a {type(sample['video']).__name__} as video, where LLaVA reads one path"
        return
    files = sample[kind] if isinstance(sample[kind], list) else [sample[kind]]
    placeholders = text.count("<image>")
    if placeholders != len(files):
        hint = " (LLaVA's placeholder is <image>, for videos too)" if "<video>" in text else ""
        yield f"has {placeholders} <image> placeholder(s) for {len(files)} {kind}(s){hint}"
    for file in files:
        yield from file_faults(kind, file, folders[f"{kind}_folder"])


def file_faults(name: str, file: Any, folder: str | None) -> Iterator[str]:
    """Whether the file of the key `name` is missing from its folder."""
    path = os.path.join(folder or "", str(file))
    if "\0" in path or not os.path.exists(path):
        yield f"{name} {path} {_ABSENT}"
