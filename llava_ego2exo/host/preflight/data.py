"""LLaVA's training JSON: every sample is checked before any weight loads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ...common.json_io import read_json, read_json_lines, set_max_mb
from ...common.text import shorten_list
from ...config import PREFIX, Ego2ExoConfig
from ...errors import Ego2ExoError
from ..settings import data_files

if TYPE_CHECKING:
    from ..settings import Settings

KINDS = ("video", "image")
_ABSENT = "is not there"
_LIST = "put the samples in [...], or check the path"
_FORM = (
    '{"id", "video" or "image", "conversations": [{"from": "human", "value": "<image>\\n..."}, '
    '{"from": "gpt", "value": "..."}]} with files under --video_folder and --image_folder'
)
MAX_JSON_MB = f"{PREFIX}max_json_mb"


class MediaFolders:
    """The two folders of a training file.

    Args:
        settings: `video_folder` and `image_folder`, None for the folder that the run is started in.
    """

    def __init__(self, settings: Settings | Mapping[str, Any]) -> None:
        self._folders = {kind: settings[f"{kind}_folder"] or "" for kind in KINDS}

    def faults(self, kind: str, file: Any, name: str | None = None) -> Iterator[str]:
        """What is wrong with one path.

        Args:
            kind: "video" or "image".
            file: as it stands in the sample.
            name: of its key; None: the kind.
        """
        path = os.path.join(self._folders[kind], str(file))
        if "\0" in path or not os.path.exists(path):
            yield f"{name or kind} {path} {_ABSENT}"


class ExtraCheck(Protocol):
    """What else a run requires of a sample whose form is right; yields its faults.

    Args:
        allowed: what would have been accepted.
        remedy: what to do about its faults.
    """

    allowed: str
    remedy: str

    def __call__(self, sample: dict[str, Any]) -> Iterator[str]: ...


def check_data(settings: Settings, flags: Ego2ExoConfig, extra: ExtraCheck | None = None) -> list[dict[str, Any]]:
    """Every sample's conversations, placeholders and files.

    Args:
        settings: the run's.
        flags: the plugin's.
        extra: what else may be wrong with a sample whose form is right.

    Returns:
        All samples.

    Raises:
        Ego2ExoError: names the first few faulty samples by file and index, and counts the rest.
    """
    media, samples, faults, extra_faults = MediaFolders(settings), [], [], 0
    if settings[MAX_JSON_MB] is not None:
        set_max_mb(settings[MAX_JSON_MB], f"--{MAX_JSON_MB}")
    for file in data_files(settings):
        for index, sample in enumerate(read_samples(file)):
            found = list(sample_faults(sample, media, flags))
            if extra is not None and not found:
                found = list(extra(sample))
                extra_faults += len(found)
            faults += [f"{file}[{index}]: {fault}" for fault in found]
            samples.append(sample)
    if faults:
        more = [extra] if extra is not None and extra_faults else []
        raise Ego2ExoError(
            f"{len(faults)} fault(s) in the training data: {shorten_list(faults)}",
            ", and ".join([_FORM, *(one.allowed for one in more)]),
            "; ".join([*_folders(faults, settings), *(one.remedy for one in more), "fix or remove these samples"]),
        )
    return samples


def _folders(faults: list[str], settings: Settings) -> list[str]:
    """Which folders to check where files are not there."""
    named = [fault.split(": ", 1)[-1] for fault in faults if fault.endswith(_ABSENT)]
    kinds = [kind for kind in KINDS if any(text.startswith((kind, f"ego_{kind}")) for text in named)]
    return [f"check --{kind}_folder ({settings[f'{kind}_folder'] or 'not given'})" for kind in kinds]


def read_samples(file: str) -> list[Any]:
    """The samples of one JSON or JSONL file.

    Raises:
        Ego2ExoError: it is no JSON, or no list, or empty.
    """
    what = "a JSON list of samples"
    # LLaVA itself refuses a byte order mark.
    if file.endswith(".jsonl"):
        samples = [sample for _, sample in read_json_lines(file, what, "utf-8")]
    else:
        samples = read_json(file, what, "utf-8")
    if not isinstance(samples, list) or not samples:
        given = f"{file} holds {type(samples).__name__} {str(samples)[:40]!r}"
        raise Ego2ExoError(given, "a JSON list of samples, one or more", _LIST)
    return samples


def sample_faults(sample: Any, media: MediaFolders, flags: Ego2ExoConfig) -> Iterator[str]:
    """What is wrong with one sample: its form, its placeholders and its files.

    Args:
        sample: one object of the JSON list.
        media: the folders that its paths are relative to.
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
    if "image" in sample and not flags.visual_tokens and "image" not in flags.modality_set:
        yield "is an image, which --ego2exo_visual_tokens False leaves without any token"
    yield from _media_faults(sample, media, "".join(str(turn["value"]) for turn in turns))


def _media_faults(sample: dict[str, Any], media: MediaFolders, text: str) -> Iterator[str]:
    kind = "image" if "image" in sample else "video" if "video" in sample else None
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
        yield from media.faults(kind, file)
