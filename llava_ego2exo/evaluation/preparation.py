"""Everything about `eval` that comes before the first weight: its checks, the folder, the plans."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.files import file_hash, locked, video_hashes, write_atomic
from ..common.jsonl import json_line
from ..common.text import shorten_list
from ..errors import Ego2ExoError, require_package
from ..host.inference.clip_jobs import ClipTask
from ..host.inference.settings import InferenceSettings
from .benchmarks.registry import BenchmarkData, benchmark_of, read_benchmark, video_folder
from .items import CHOICE, DESCRIPTION, LIKELIHOOD, Item, read_replies
from .job import EvalJob, EvalModel
from .judge.judge import open_judge
from .plan import MANIFEST, ItemQuestion, joined, make_plan, new_manifest, split_long
from .replies.parser import PARSERS
from .videos import find_videos

ITEMS = "items.jsonl"
_NEW_TOKENS = {CHOICE: 64, DESCRIPTION: 256}


@dataclass(frozen=True)
class ModelRun:
    """One model in one mode."""

    model: EvalModel
    mode: str
    settings: InferenceSettings
    tasks: list[ClipTask[ItemQuestion]]
    keys: dict[str, str]  # item's id -> key of its reply, in order of the items
    completed: set[str]  # keys of replies that are there
    folder: Path  # of its replies


@dataclass(frozen=True)
class EvalPreparation:
    """What process 0 sends to the others: all questions, every model in every mode, and what `run.json` holds."""

    items: list[Item]
    runs: list[ModelRun]
    manifest: dict[str, Any]


def prepare(job: EvalJob, stack: contextlib.ExitStack) -> EvalPreparation:
    """Check everything, take the folder for the time of `stack`, and plan.

    Raises:
        Ego2ExoError: something given is wrong.
    """
    from ..host.inference.served import model_settings, served_model

    # What reading replies and the report need, so that a run of hours does not end without one.
    require_package("matplotlib", "report")
    require_package("jinja2", "report")
    PARSERS[job.parser]("walking to the door", {"A": "walk", "B": "sit"})
    judge = open_judge(job.judge, Path(job.out))
    if judge is not None:
        with judge:
            judge.check()
    if not job.videos:
        job = dataclasses.replace(job, videos=str(video_folder(job.benchmark, job.data)))
    items, read = _items(job)
    models = [settled(model) for model in job.models]
    served = [model.name for model in models if served_model(model.path)]
    if served and LIKELIHOOD in job.modes:
        raise Ego2ExoError(
            f"--mode {LIKELIHOOD} with {', '.join(served)}, which is served: servers give no likelihood of an option",
            "generate", "leave it out",
        )  # fmt: skip
    if any(model.spare for model in job.models) and not any(model.base for model in models):
        raise Ego2ExoError(
            f"--model-base {job.models[0].base}, and every model is a whole one",
            "a base for LoRA or projector folders",
            "leave it out",
        )
    kind = items[0].kind if items else CHOICE
    longest = _NEW_TOKENS[kind] if job.max_new_tokens is None else job.max_new_tokens
    settings = {model.name: model_settings(model.path, model.base, job, longest) for model in models}
    manifest = new_manifest(job, models, settings, read)
    folder = Path(job.out)
    stack.enter_context(locked(folder))
    manifest = joined(folder, manifest)
    written = write_atomic(folder / ITEMS, "".join(json_line(dataclasses.asdict(item)) for item in items))
    manifest["items sha256"] = file_hash(str(written))
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    there = [item for item in items if item.path]
    hashes = video_hashes([item.path for item in there], folder, what="hashing videos")
    runs = []
    for model, stored in zip(models, manifest["models"], strict=True):
        for mode in job.modes:
            own = folder / model.name / mode
            plan = make_plan(there, hashes, [mode, stored["checkpoint"], stored["settings"]])
            completed = {key for key, reply in read_replies(own).items() if not reply.error}
            runs.append(ModelRun(model, mode, settings[model.name], *plan, completed, own))
    lines = [f"{len(items)} question(s) about {len({item.path for item in there})} video(s) in {job.videos}"]
    for run in runs:
        left = sum(key not in run.completed for key in run.keys.values())
        lines.append(f"{run.model.name}, {run.mode}: {left} left to ask; {run.model.path}; {run.settings}")
    # On standard error, so that standard output is the report alone.
    print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201
    return EvalPreparation(items, runs, manifest)


def _items(job: EvalJob) -> tuple[list[Item], BenchmarkData]:
    if benchmark_of(job.benchmark).kind == DESCRIPTION and LIKELIHOOD in job.modes:
        raise Ego2ExoError(
            f"--mode {LIKELIHOOD} with {job.benchmark}, whose questions have no options", "generate", "leave it out"
        )
    read = read_benchmark(job.benchmark, job.data, job.views, job.categories or None, job.max_bad_rows)
    # All are looked for: whether a file name is ambiguous depends on all names in the data.
    items = find_videos(read.items, job.videos, read.precut).items[: job.limit or None]
    missing = [f"{item.video} ({item.source})" for item in items if not item.path]
    if len(missing) > job.max_failures:
        raise Ego2ExoError(
            f"{len(missing)} question(s) about videos that are not in {job.videos}: {shorten_list(missing)}",
            f"at most {job.max_failures} (--max-failures)",
            "correct --videos, or allow as many failures; each counts as wrong",
        )
    return split_long(items, job.clip_seconds, job.reading.limits), read


def settled(model: EvalModel) -> EvalModel:
    """A base that was given for whichever model needs one is left out where none is needed."""
    from ..host.checkpoint.config import read_config
    from ..host.checkpoint.files import describe
    from ..host.inference.served import served_model

    if served_model(model.path) is not None:
        return dataclasses.replace(model, base=None)
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
