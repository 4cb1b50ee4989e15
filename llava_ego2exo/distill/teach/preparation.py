"""Everything about `teach` that comes before the first weight: its checks, the folder, and what is to be asked."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.files import locked, video_hashes
from ...common.text import shorten_list
from ...errors import Ego2ExoError
from ...host.inference.clip_jobs import ClipTask
from ...host.inference.settings import InferenceSettings
from ..pairs.file import read_pairs
from ..pairs.pair import Pair
from .job import Queries, TeachJob, draw_queries, read_queries
from .store import answer_key, open_folder, top_k_path


@dataclass(frozen=True)
class TeacherQuery:
    """One query about one clip; segment and split of the pair that asks it first."""

    key: str
    text: str
    segment: str
    split: str
    kind: str


@dataclass(frozen=True)
class TeachPreparation:
    """What process 0 sends to the others: clips known to fail are `lost`; each other clip is in `tasks` once.

    `places` is (segment, kind) -> key of the answer that belongs there, in order of pairs and kinds; `completed` are
    the keys of answers that are there.
    """

    chosen: list[Pair]
    pairs: list[Pair]
    lost: list[dict[str, str]]
    tasks: list[ClipTask[TeacherQuery]]
    places: dict[tuple[str, str], str]
    settings: InferenceSettings
    fingerprint: str
    completed: set[str]


def prepare(job: TeachJob, stack: contextlib.ExitStack) -> TeachPreparation:
    """Check everything, lock the folder until `stack` closes, and plan.

    Raises:
        Ego2ExoError: something given is wrong.
    """
    pairs = read_pairs(job.pairs)
    chosen = [pair for pair in pairs if job.split in (pair.split, "all")]
    if not chosen:
        there = ", ".join(dict.fromkeys(pair.split for pair in pairs))
        raise Ego2ExoError(f"--split {job.split}: {job.pairs} has no such pair", f"{there}, all", "choose another")
    queries, lost = read_queries(job.queries), _lost(chosen, job.max_failures)
    settings, fingerprint = _teacher(job)
    folder = Path(job.out)
    stack.enter_context(locked(folder))
    found = open_folder(folder, _manifest(job, settings, fingerprint, queries))
    there = [pair for pair in chosen if pair.segment not in {failure["segment"] for failure in lost}]
    hashes = video_hashes([pair.ego for pair in there], folder)
    drawn = {pair.segment: draw_queries(queries, pair.segment, job.seed) for pair in there}
    tasks, places = plan(there, drawn, hashes, fingerprint, settings.to_dict())
    # With logits, where these are wanted.
    completed = {a.key for a in found if not job.top_k or top_k_path(folder, a.key).is_file()}
    left = sum(task.is_pending(completed) for task in tasks)
    # On standard error, so that standard output is the report alone.
    print(  # noqa: T201
        f"teacher: {job.model} ({fingerprint[:12]}); {settings}\n"
        f"clips: {len(tasks)} of split {job.split}, {len(places)} answers; {left} clip(s) left to ask about",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    return TeachPreparation(chosen, pairs, lost, tasks, places, settings, fingerprint, completed)


def plan(
    pairs: Sequence[Pair], queries: Mapping[str, Mapping[str, str]], hashes: Mapping[str, str], teacher: str,
    settings: dict[str, Any],
) -> tuple[list[ClipTask[TeacherQuery]], dict[tuple[str, str], str]]:  # fmt: skip
    """`tasks` and `places` of :class:`TeachPreparation`: a clip or query that several pairs share is asked once."""
    clips: dict[tuple[str, float | None, float | None], dict[str, TeacherQuery]] = {}
    paths: dict[tuple[str, float | None, float | None], str] = {}
    places = {}
    for pair in pairs:
        clip = (hashes[pair.ego], pair.start_s, pair.end_s)
        paths.setdefault(clip, pair.ego)
        for kind, query in queries[pair.segment].items():
            key = places[pair.segment, kind] = answer_key(*clip, query, teacher, settings)
            clips.setdefault(clip, {}).setdefault(key, TeacherQuery(key, query, pair.segment, pair.split, kind))
    tasks = [
        ClipTask(paths[video, start_s, end_s], start_s, end_s, video, tuple(own.values()))
        for (video, start_s, end_s), own in clips.items()
    ]
    return tasks, places


def failure_of(task: ClipTask[TeacherQuery], reason: str) -> dict[str, str]:
    """The entry of `failures.json` for a clip without answers."""
    return {"segment": task.questions[0].segment, "ego": task.path, "reason": reason}


def failure_line(failure: dict[str, str]) -> str:
    """The same as a line of a message."""
    reason = failure["reason"]
    return f"{failure['segment']}: {reason if failure['ego'] in reason else failure['ego'] + ': ' + reason}"


def _lost(chosen: Sequence[Pair], allowed: int) -> list[dict[str, str]]:
    """Clips whose file is not there; refused at once where they are more than may fail."""
    lost = [
        {"segment": pair.segment, "ego": pair.ego, "reason": "the file is not there, or may not be read"}
        for pair in chosen
        if not os.path.isfile(pair.ego) or not os.access(pair.ego, os.R_OK)
    ]
    if len(lost) > allowed:
        raise Ego2ExoError(
            f"{len(lost)} ego clip(s) are not there or may not be read: {shorten_list(list(map(failure_line, lost)))}",
            f"at most {allowed} (--max-failures)",
            "correct the paths in the pairs file, or see `llava-ego2exo pairs check`",
        )
    return lost


def _teacher(job: TeachJob) -> tuple[InferenceSettings, str]:
    """How the teacher is asked, and its fingerprint; loads no weight."""
    from ...host.checkpoint.config import read_config
    from ...host.inference.served import model_fingerprint, model_settings, served_model

    served = served_model(job.model)
    if served is not None and (job.top_k or job.model_base):
        raise Ego2ExoError(f"--top-k or --model-base with {served.name}, which is served", "neither", "leave it out")
    vocabulary = job.top_k if served else read_config(job.model).get("vocab_size", job.top_k)
    if job.top_k > vocabulary:
        raise Ego2ExoError(f"--top-k {job.top_k}", f"at most {vocabulary}, the vocabulary", "give a smaller one")
    settings = model_settings(job.model, job.model_base, job, job.max_new_tokens)
    return settings, model_fingerprint(job.model, job.model_base)


def _manifest(job: TeachJob, settings: InferenceSettings, fingerprint: str, queries: Queries) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("llava-ego2exo", "torch", "transformers", "av", "bitsandbytes"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "teacher": {"model": job.model, "base": job.model_base, "fingerprint": fingerprint},
        "settings": settings.to_dict(), "top_k": job.top_k, "seed": job.seed,
        "queries": {kind: list(wordings) for kind, wordings in queries.items()}, "versions": versions,
    }  # fmt: skip
