"""What a run asks, and the `run.json` of what its numbers depend on: data, models, settings and versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..common.files import file_hash
from ..common.json_io import read_json
from ..common.record_store import content_key, differences
from ..common.text import shorten_list
from ..errors import Ego2ExoError
from ..host.hooks.flavour import commit_of
from ..host.inference.clip_jobs import ClipTask
from ..host.inference.settings import InferenceSettings
from ..video import video_seconds
from ..video.limits import VideoLimits
from .benchmarks.layouts import split_into_clips
from .benchmarks.registry import BenchmarkData
from .items import CHOICE, DESCRIPTION, Item
from .job import EvalJob, EvalModel

# The wording that the published numbers were made with. Part of every reply's key and of metrics.json.
VERSION = "published-1"


def prompt_of(item: Item) -> str:
    """The text that a model gets with the clip, without placeholder and chat template."""
    if item.kind != CHOICE:
        return item.question
    options = " ".join(f"({key}) {text}" for key, text in item.choices.items())
    return f"{item.question} The output should be the choice among one of the following choices. Choices are {options}"


@dataclass(frozen=True)
class ItemQuestion:
    """One item as it is asked: its id, its reply's key, the text without template, and its options' keys."""

    id: str
    key: str
    text: str
    options: tuple[str, ...]


def make_plan(
    items: Sequence[Item], hashes: Mapping[str, str], asking: Sequence[object]
) -> tuple[list[ClipTask[ItemQuestion]], dict[str, str]]:
    """Clips with all their questions, so that each is decoded and encoded once; and item's id -> key of its reply.

    Args:
        items: those whose video was found.
        hashes: path -> sha256 of the file.
        asking: all that a reply depends on beside clip and question: mode, model, settings.
    """
    clips: dict[tuple[str, float | None, float | None], list[ItemQuestion]] = {}
    keys = {}
    for item in items:
        text, options = prompt_of(item), tuple(item.choices)
        # As floats: 3 and 3.0 are one moment.
        span = [None if second is None else float(second) for second in (item.start_s, item.end_s)]
        keys[item.id] = key = content_key([item.id, hashes[item.path], *span, text, options, VERSION, *asking])
        questions = clips.setdefault((item.path, item.start_s, item.end_s), [])
        questions.append(ItemQuestion(item.id, key, text, options))
    tasks = [ClipTask(*place, hashes[place[0]], tuple(questions)) for place, questions in clips.items()]
    return tasks, keys


def split_long(items: Sequence[Item], seconds: float, limits: VideoLimits) -> list[Item]:
    """The items, each description of a whole video as those of its clips, as TSU-Description asks for them."""
    parts: list[Item] = []
    for item in items:
        whole = item.kind == DESCRIPTION and not item.part and item.path
        try:
            parts += split_into_clips(item, video_seconds(item.path, limits), seconds) if whole else [item]
        except Ego2ExoError:
            parts.append(item)  # what does not open here fails by name when its turn comes
    return parts


MANIFEST = "run.json"
_PACKAGES = ("llava-ego2exo", "torch", "transformers", "peft", "bitsandbytes", "av", "snowballstemmer")


def software() -> dict[str, Any]:
    """Versions of packages, the llava in use, commits of checkouts, and the device."""
    import platform

    import torch

    from ..host.hooks.flavour import NAMES, detect, package_folder

    versions: dict[str, Any] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "versions": versions,
        "llava": {"flavour": NAMES[detect()], "commit": commit_of(package_folder())},
        "commit": commit_of(Path(__file__).parents[1]),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def new_manifest(
    job: EvalJob, models: Sequence[EvalModel], settings: Mapping[str, InferenceSettings], read: BenchmarkData
) -> dict[str, Any]:  # fmt: skip
    """What `run.json` holds of this run; `models` with the bases that they need."""
    from ..host.inference.served import model_fingerprint

    against = job.compare_to or (models[0].name if len(models) > 1 else None)
    return {
        "benchmark": job.benchmark,
        "data": {"file": read.path.name, "sha256": file_hash(str(read.path)), "rows left out": list(read.bad)},
        "videos": job.videos, "views": list(job.views), "categories": list(job.categories), "limit": job.limit,
        "clip seconds": job.clip_seconds,
        "prompt": VERSION, "modes": list(job.modes), "parser": job.parser, "batch size": job.batch_size,
        "judge settings": job.judge and job.judge.to_dict(), "compared with": against,
        "models": [
            {
                "name": model.name, "path": model.path, "base": model.base,
                "checkpoint": model_fingerprint(model.path, model.base), "settings": settings[model.name].to_dict(),
            }
            for model in models
        ],
        **software(),
    }  # fmt: skip


# What replies in one folder must share; a model that has replied here must be the same and asked the same way.
_BOUND = ("benchmark", "data", "prompt", "clip seconds")


def joined(folder: Path, new: dict[str, Any]) -> dict[str, Any]:
    """The new manifest, with the judge of an earlier run in this folder where none is asked: its scores are used.

    Raises:
        Ego2ExoError: that run had other data, or asked these models with other settings.
    """
    if not (folder / MANIFEST).is_file() or not any(folder.glob("*/*/replies*.jsonl")):
        return new
    old = read_manifest(folder)
    differing = differences({key: old.get(key) for key in _BOUND}, {key: new[key] for key in _BOUND})
    before, now = _identities(old), _identities(new)
    for name in before:
        differing += [f"model {name}, {text}" for text in differences(before[name], now.get(name, before[name]))]
    if differing:
        raise Ego2ExoError(
            f"{folder} was made with other settings: {shorten_list(differing, 10)}",
            "the same data, models and settings in one folder: replies are never mixed",
            "give another --out, or the same as before",
        )
    return {**new, "judge settings": new["judge settings"] or old.get("judge settings")}


def _identities(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Model's name -> what must stay the same in one folder."""
    return {
        one["name"]: {key: one.get(key) for key in ("base", "checkpoint", "settings")} for one in manifest["models"]
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The `run.json` of a folder.

    Raises:
        Ego2ExoError: it is not there or damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise Ego2ExoError(f"{path} is not there", "a folder that `llava-ego2exo eval` wrote", "check it")
    try:
        manifest = read_json(path, "a manifest")
        _identities(manifest)
        return manifest
    except Ego2ExoError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Ego2ExoError(
            f"{path} is damaged ({error})",
            "what `llava-ego2exo eval` wrote",
            "delete this file and run the same `llava-ego2exo eval` again; replies stay",
        ) from error
