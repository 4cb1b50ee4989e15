"""Everything about `teach` that comes before the first weight: its checks, the folder, the plan."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.files import locked, video_hashes
from ..errors import Ego2ExoError
from ..runs.batches import is_open
from ..runs.listing import listed
from ..runs.settings import Settings
from .answer_folder import done_keys, open_folder
from .job import Job
from .pairs import Pair, read_pairs
from .plan import Plan, make_plan
from .queries import Queries, draw_queries, read_queries


@dataclass(frozen=True)
class Prepared:
    """What process 0 tells the others.

    Args:
        chosen: pairs of the split.
        pairs: all pairs of the file.
        lost: clips known to fail before any is read.
        plan: what to answer.
        settings: how.
        fingerprint: of the teacher.
        done: keys of answers that are there.
    """

    chosen: list[Pair]
    pairs: list[Pair]
    lost: list[dict[str, str]]
    plan: Plan
    settings: Settings
    fingerprint: str
    done: set[str]


def prepare(job: Job, stack: contextlib.ExitStack) -> Prepared:
    """Check everything, take the folder for the time of `stack`, and plan.

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
    plan = make_plan(there, drawn, hashes, fingerprint, settings.to_dict())
    done = done_keys(folder, found, job.top_k)
    _say_plan(job, settings, fingerprint, plan, done)
    return Prepared(chosen, pairs, lost, plan, settings, fingerprint, done)


def _lost(chosen: Sequence[Pair], allowed: int) -> list[dict[str, str]]:
    """Clips whose file is not there; refused at once where they are more than may fail."""
    lost = [
        {"segment": pair.segment, "ego": pair.ego, "reason": "the file is not there, or may not be read"}
        for pair in chosen
        if not os.path.isfile(pair.ego) or not os.access(pair.ego, os.R_OK)
    ]
    if len(lost) > allowed:
        raise Ego2ExoError(
            f"{len(lost)} ego clip(s) are not there or may not be read: {listed([named(f) for f in lost])}",
            f"at most {allowed} (--max-failures)",
            "mend the paths in the pairs file, or see `llava-ego2exo pairs check`",
        )
    return lost


def _teacher(job: Job) -> tuple[Settings, str]:
    """How the teacher is asked, and which it is; loads no weight."""
    from ..host.config_file import read_config
    from ..host.fingerprint import fingerprint
    from ..host.how_asked import how_asked

    config = read_config(job.model)
    vocabulary = config.get("vocab_size", job.top_k)
    if job.top_k > vocabulary:
        raise Ego2ExoError(f"--top-k {job.top_k}", f"at most {vocabulary}, the vocabulary", "give a smaller one")
    settings = how_asked(
        job.model, job.model_base, job.template, job.dtype, job.bits, job.force_sample, job.time_instruction,
        frames_upbound=job.frames_upbound, video_fps=job.video_fps, max_new_tokens=job.max_new_tokens,
    )  # fmt: skip
    return settings, fingerprint(job.model, job.model_base)


def _manifest(job: Job, settings: Settings, fingerprint: str, queries: Queries) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("llava-ego2exo", "torch", "transformers", "decord", "bitsandbytes"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "teacher": {"model": job.model, "base": job.model_base, "fingerprint": fingerprint},
        "settings": settings.to_dict(), "top_k": job.top_k, "seed": job.seed,
        "queries": {kind: list(wordings) for kind, wordings in queries.items()}, "versions": versions,
    }  # fmt: skip


def _say_plan(job: Job, settings: Settings, fingerprint: str, plan: Plan, done: set[str]) -> None:
    """On standard error, so that standard output is the report alone."""
    left = sum(is_open(task, done) for task in plan.tasks)
    shown = ", ".join(f"{name} {value}" for name, value in settings.to_dict().items())
    lines = [
        f"teacher: {job.model} ({fingerprint[:12]}); {shown}",
        f"clips: {len(plan.tasks)} of split {job.split}, {len(plan.places)} answers; {left} clip(s) left to ask about",
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201


def named(failure: dict[str, str]) -> str:
    """One clip that failed, in a line."""
    reason = failure["reason"]
    return f"{failure['segment']}: {reason if failure['ego'] in reason else failure['ego'] + ': ' + reason}"
