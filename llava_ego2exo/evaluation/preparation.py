"""Everything about `eval` that comes before the first weight: its checks, the folder, the plans."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..common.differences import differences
from ..common.files import file_hash, locked, video_hashes, write_atomic
from ..common.git import commit_of
from ..common.json_io import read_json
from ..common.jsonl import json_line
from ..common.text import shorten_list
from ..errors import Ego2ExoError
from ..host.inference.settings import Settings
from . import plan as prompts
from .benchmarks.registry import BenchmarkData, benchmark_of, read_benchmark
from .items import CHOICE, DESCRIPTION, LIKELIHOOD, Item
from .job import Job, Model
from .judge.judge import open_judge
from .plan import Plan, make_plan, split_long
from .replies.parser import PARSERS
from .store import read_replies
from .videos import find_videos

# What a number depends on: versions, commits, data, models and how they were asked.

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


def named(models: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A manifest's models by name."""
    return {model["name"]: model for model in models}


MANIFEST, ITEMS = "run.json", "items.jsonl"
_NEW_TOKENS = {CHOICE: 64, DESCRIPTION: 256}


@dataclass(frozen=True)
class Asked:
    """One model in one mode.

    Args:
        model: which.
        mode: how.
        settings: how it is shown and asked.
        plan: what it is asked.
        done: keys of replies that are there.
        folder: of its replies.
    """

    model: Model
    mode: str
    settings: Settings
    plan: Plan
    done: set[str]
    folder: Path


@dataclass(frozen=True)
class Prepared:
    """What process 0 tells the others.

    Args:
        items: all questions.
        asked: every model in every mode, models in order.
        manifest: what `run.json` holds.
    """

    items: list[Item]
    asked: list[Asked]
    manifest: dict[str, Any]


def prepare(job: Job, stack: contextlib.ExitStack) -> Prepared:
    """Check everything, take the folder for the time of `stack`, and plan.

    Raises:
        Ego2ExoError: something given is wrong.
    """
    _check_packages(job)
    judge = open_judge(job.judge, Path(job.out))
    if judge is not None:
        with judge:
            judge.check()
    items, read = _items(job)
    models = [_settled(model) for model in job.models]
    if any(model.spare for model in job.models) and not any(model.base for model in models):
        raise Ego2ExoError(
            f"--model-base {job.models[0].base}, and every model is a whole one",
            "a base for LoRA or projector folders",
            "leave it out",
        )
    settings = {model.name: _settings(job, model, items) for model in models}
    manifest = _manifest(job, models, settings, read)
    folder = Path(job.out)
    stack.enter_context(locked(folder))
    manifest = _joined(folder, manifest)
    written = write_atomic(folder / ITEMS, "".join(json_line(dataclasses.asdict(item)) for item in items))
    manifest["items sha256"] = file_hash(str(written))
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    there = [item for item in items if item.path]
    hashes = video_hashes([item.path for item in there], folder, what="hashing videos")
    asked = [
        _asked(folder, model, mode, settings[model.name], there, hashes, manifest)
        for model in models
        for mode in job.modes
    ]
    _say(asked, items)
    return Prepared(items, asked, manifest)


def _check_packages(job: Job) -> None:
    """What reading replies and the report need, so that a run of hours does not end without one."""
    from ..pages.drawing import require_matplotlib
    from ..pages.templating import require_jinja

    require_matplotlib()
    require_jinja()
    # Reading one reply asks for all that reading any needs.
    PARSERS[job.parser]("walking to the door", {"A": "walk", "B": "sit"})


def _items(job: Job) -> tuple[list[Item], BenchmarkData]:
    if benchmark_of(job.benchmark).kind == DESCRIPTION and LIKELIHOOD in job.modes:
        raise Ego2ExoError(
            f"--mode {LIKELIHOOD} with {job.benchmark}, whose questions have no options", "generate", "leave it out"
        )
    read = read_benchmark(job.benchmark, job.data, job.views, job.categories or None, job.max_bad_rows)
    # All are looked for: whether a file name leaves no doubt hangs on all names in the data.
    items = find_videos(read.items, job.videos, read.precut).items[: job.limit or None]
    missing = [f"{item.video} ({item.source})" for item in items if not item.path]
    if len(missing) > job.max_failures:
        raise Ego2ExoError(
            f"{len(missing)} question(s) about videos that are not in {job.videos}: {shorten_list(missing)}",
            f"at most {job.max_failures} (--max-failures)",
            "mend --videos, or allow as many failures; each counts as wrong",
        )
    return split_long(items, job.clip_seconds, job.reading.limits), read


def _settled(model: Model) -> Model:
    """A base that was given for whichever model needs one is left out where none is needed."""
    from ..host.checkpoint.config import read_config
    from ..host.checkpoint.files import describe

    read_config(model.path)
    if model.spare and describe(model.path).kind == "full":
        return dataclasses.replace(model, base=None)
    if model.base is not None and describe(model.base).kind != "full":
        raise Ego2ExoError(
            f"the base {model.base} of model {model.name} is no whole model",
            "the checkpoint that training started from",
            "merge that one first (llava-ego2exo merge), or give its own base",
        )
    return model


def _settings(job: Job, model: Model, items: Sequence[Item]) -> Settings:
    from ..host.inference.prompts import how_asked

    kind = items[0].kind if items else CHOICE
    return how_asked(
        model.path, model.base, job.template, job.dtype, job.bits, job.force_sample, job.time_instruction,
        frames_upbound=job.frames_upbound, video_fps=job.video_fps,
        max_new_tokens=_NEW_TOKENS[kind] if job.max_new_tokens is None else job.max_new_tokens,
    )  # fmt: skip


def _manifest(
    job: Job, models: Sequence[Model], settings: Mapping[str, Settings], read: BenchmarkData
) -> dict[str, Any]:
    from ..host.checkpoint.files import fingerprint

    return {
        "benchmark": job.benchmark,
        "data": {"file": read.path.name, "sha256": file_hash(str(read.path)), "rows left out": list(read.bad)},
        "videos": job.videos, "views": list(job.views), "categories": list(job.categories), "limit": job.limit,
        "clip seconds": job.clip_seconds,
        "prompt": prompts.VERSION, "modes": list(job.modes), "parser": job.parser, "batch size": job.batch_size,
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


def _joined(folder: Path, new: dict[str, Any]) -> dict[str, Any]:
    """The new manifest, with what an earlier run in this folder has learnt of its models.

    Raises:
        Ego2ExoError: that run had other data, or asked these models otherwise.
    """
    old: dict[str, Any] = {"models": []}
    if (folder / MANIFEST).is_file() and any(folder.glob("*/*/replies*.jsonl")):
        old = read_manifest(folder)
        _refuse_differences(folder, old, new)
    before = named(old["models"])
    if new["judge settings"] is None:
        # What it has said is used, and nobody is asked.
        new = {**new, "judge settings": old.get("judge settings")}
    models = [{**model, "attention": before.get(model["name"], {}).get("attention")} for model in new["models"]]
    return {**new, "models": models}


def _refuse_differences(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    differing = differences({key: old.get(key) for key in _BOUND}, {key: new[key] for key in _BOUND})
    before, now = named(old["models"]), named(new["models"])
    for name in before.keys() & now.keys():
        about = ("base", "checkpoint", "settings")
        parts = [{key: model[key] for key in about} for model in (before[name], now[name])]
        differing += [f"model {name}, {text}" for text in differences(*parts)]
    if differing:
        raise Ego2ExoError(
            f"{folder} was made otherwise: {shorten_list(differing, 10)}",
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
        named(manifest["models"])
        return manifest
    except Ego2ExoError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Ego2ExoError(
            f"{path} is damaged ({error})",
            "what `llava-ego2exo eval` wrote",
            "delete this file and run the same `llava-ego2exo eval` again; replies stay",
        ) from error


def _asked(
    folder: Path, model: Model, mode: str, settings: Settings, items: Sequence[Item], hashes: Mapping[str, str],
    manifest: dict[str, Any],
) -> Asked:  # fmt: skip
    asking = [mode, named(manifest["models"])[model.name]["checkpoint"], settings.to_dict()]
    own = folder / model.name / mode
    done = {key for key, reply in read_replies(own).items() if not reply.error}
    return Asked(model, mode, settings, make_plan(items, hashes, asking), done, own)


def _say(asked: Sequence[Asked], items: Sequence[Item]) -> None:
    """On standard error, so that standard output is the report alone."""
    lines = [f"{len(items)} question(s) about {len({item.path for item in items if item.path})} video(s)"]
    for one in asked:
        left = sum(key not in one.done for key in one.plan.keys.values())
        shown = ", ".join(f"{name} {value}" for name, value in one.settings.to_dict().items())
        lines.append(f"{one.model.name}, {one.mode}: {left} left to ask; {one.model.path}; {shown}")
    print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201
