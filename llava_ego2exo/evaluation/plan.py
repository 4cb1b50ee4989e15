"""What a run asks, and the `run.json` of what its numbers depend on: data, models, settings and versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    """One item as it is asked.

    Args:
        id: of the item.
        key: of its reply.
        text: without placeholder and template.
        options: keys of the options; empty for a description.
    """

    id: str
    key: str
    text: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class EvalPlan:
    """What one model is asked in one mode.

    Args:
        tasks: each clip once, in order of the items.
        keys: item's id -> key of its reply, in order of the items.
    """

    tasks: list[ClipTask[ItemQuestion]] = field(default_factory=list)
    keys: Mapping[str, str] = field(default_factory=dict)


def make_plan(items: Sequence[Item], hashes: Mapping[str, str], asking: Sequence[object]) -> EvalPlan:
    """All questions of a clip stand together, so that it is decoded and encoded once.

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
    return EvalPlan(tasks, keys)


def split_long(items: Sequence[Item], seconds: float = 1.0, limits: VideoLimits | None = None) -> list[Item]:
    """The items, each description of a whole video as those of its clips, as TSU-Description asks for them.

    Args:
        items: with their paths.
        seconds: of a clip.
        limits: what a video may be; None: the defaults.
    """
    return [part for item in items for part in _parts(item, seconds, limits)]


def _parts(item: Item, seconds: float, limits: VideoLimits | None) -> list[Item]:
    if item.kind != DESCRIPTION or item.part or not item.path:
        return [item]
    try:
        duration = video_seconds(item.path, limits)
    except Ego2ExoError:
        return [item]  # what does not open here fails by name when its turn comes
    return split_into_clips(item, duration, seconds)


MANIFEST = "run.json"
_PACKAGES = ("llava-ego2exo", "torch", "transformers", "peft", "bitsandbytes", "decord", "snowballstemmer")


def software() -> dict[str, Any]:
    """Versions of packages, the llava in use, commits of checkouts, and the device."""
    import platform

    import torch

    from ..host.hooks.flavour import detect, package_folder

    versions: dict[str, Any] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "versions": versions,
        "llava": {"flavour": detect(), "commit": commit_of(package_folder())},
        "commit": commit_of(Path(__file__).parents[1]),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def models_by_name(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The models of a manifest."""
    return {model["name"]: model for model in manifest["models"]}


def new_manifest(
    job: EvalJob, models: Sequence[EvalModel], settings: Mapping[str, InferenceSettings], read: BenchmarkData
) -> dict[str, Any]:  # fmt: skip
    """What `run.json` holds of this run.

    Args:
        job: the command line.
        models: with the bases that they need.
        settings: model's name -> how it is asked.
        read: the benchmark's data.
    """
    from ..host.checkpoint.files import fingerprint

    return {
        "benchmark": job.benchmark,
        "data": {"file": read.path.name, "sha256": file_hash(str(read.path)), "rows left out": list(read.bad)},
        "videos": job.videos, "views": list(job.views), "categories": list(job.categories), "limit": job.limit,
        "clip seconds": job.clip_seconds,
        "prompt": VERSION, "modes": list(job.modes), "parser": job.parser, "batch size": job.batch_size,
        "judge settings": job.judge and job.judge.to_dict(), "compared with": job.compare_to,
        "models": [
            {
                "name": model.name, "path": model.path, "base": model.base,
                "checkpoint": fingerprint(model.path, model.base), "settings": settings[model.name].to_dict(),
            }
            for model in models
        ],
        **software(),
    }  # fmt: skip


# What replies in one folder must share; a model that has replied here must be the same and asked the same way.
_BOUND = ("benchmark", "data", "prompt", "clip seconds")


def joined(folder: Path, new: dict[str, Any]) -> dict[str, Any]:
    """The new manifest, with what only an earlier run in this folder knows: the judge, and each model's attention.

    Raises:
        Ego2ExoError: that run had other data, or asked these models with other settings.
    """
    old: dict[str, Any] = {"models": []}
    if (folder / MANIFEST).is_file() and any(folder.glob("*/*/replies*.jsonl")):
        old = read_manifest(folder)
        _refuse_differences(folder, old, new)
    before = models_by_name(old)
    if new["judge settings"] is None:
        # Its stored scores are used, and none is asked.
        new = {**new, "judge settings": old.get("judge settings")}
    models = [{**model, "attention": before.get(model["name"], {}).get("attention")} for model in new["models"]]
    return {**new, "models": models}


def _refuse_differences(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    differing = differences({key: old.get(key) for key in _BOUND}, {key: new[key] for key in _BOUND})
    before, now = models_by_name(old), models_by_name(new)
    for name in before.keys() & now.keys():
        about = ("base", "checkpoint", "settings")
        parts = [{key: model[key] for key in about} for model in (before[name], now[name])]
        differing += [f"model {name}, {text}" for text in differences(*parts)]
    if differing:
        raise Ego2ExoError(
            f"{folder} was made with other settings: {shorten_list(differing, 10)}",
            "the same data, models and settings in one folder: replies are never mixed",
            "give another --out, or the same as before",
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The `run.json` of a folder.

    Raises:
        Ego2ExoError: it is not there or damaged.
    """
    path = folder / MANIFEST
    try:
        if not path.is_file():
            raise Ego2ExoError(f"{path} is not there", "a folder that `llava-ego2exo eval` wrote", "check it")
        manifest = read_json(path, "a manifest")
        models_by_name(manifest)
        return manifest
    except Ego2ExoError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Ego2ExoError(
            f"{path} is damaged ({error})",
            "what `llava-ego2exo eval` wrote",
            "delete this file and run the same `llava-ego2exo eval` again; replies stay",
        ) from error
