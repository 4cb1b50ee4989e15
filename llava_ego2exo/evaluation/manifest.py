"""The `run.json` of an evaluation folder: data, models, settings and versions that its numbers depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..common.differences import differences
from ..common.files import file_hash
from ..common.git import commit_of
from ..common.json_io import read_json
from ..common.text import shorten_list
from ..errors import Ego2ExoError
from ..host.inference.settings import InferenceSettings
from .benchmarks.registry import BenchmarkData
from .job import EvalJob, EvalModel
from .plan import VERSION

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
