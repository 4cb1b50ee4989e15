"""Everything about `teach` that comes before the first weight: its checks, the folder, the plan."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.differences import differences
from ...common.files import locked, video_hashes, write_atomic
from ...common.json_io import read_json
from ...common.text import shorten_list
from ...errors import Ego2ExoError
from ...host.inference.batches import in_batches, is_open
from ...host.inference.settings import Settings
from ..pairs.file import Pair, read_pairs
from .job import Job
from .queries import Queries, draw_queries, read_queries
from .store import Answer, answer_key, read_answers, write_answers
from .top_k import top_k_path

# Which questions a run asks, and in which batches: fixed by pairs, queries and batch size alone.
#
# Neither an interruption nor the number of processes changes what goes through the model together, so neither changes
# an answer.


@dataclass(frozen=True)
class Question:
    """One query about one clip.

    Args:
        key: of its answer.
        query: as it is put.
        segment: of the pair that asks it first.
        split: of that pair.
        kind: of the query.
    """

    key: str
    query: str
    segment: str
    split: str
    kind: str


@dataclass(frozen=True)
class Task:
    """One clip with its questions.

    Args:
        path: of the ego video.
        start_s: where the clip begins, in seconds; None: at the start.
        end_s: where it ends; None: at the end.
        video: sha256 of the file.
        questions: one or more.
    """

    path: str
    start_s: float | None
    end_s: float | None
    video: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Plan:
    """What a run is to answer.

    Args:
        tasks: each clip once, in order of the pairs.
        places: (segment, kind) -> key of the answer that belongs there, in order of pairs and kinds.
    """

    tasks: list[Task]
    places: dict[tuple[str, str], str]

    def batches(self, size: int) -> list[tuple[Task, ...]]:
        """The tasks, `size` clips a batch."""
        return in_batches(self.tasks, size)


def make_plan(
    pairs: Sequence[Pair],
    queries: Mapping[str, Mapping[str, str]],
    hashes: Mapping[str, str],
    teacher: str,
    settings: dict[str, Any],
) -> Plan:
    """Each different clip and question once, also where several pairs share them.

    Args:
        pairs: whose ego clips to ask about.
        queries: segment -> kind -> query.
        hashes: path -> sha256.
        teacher: fingerprint.
        settings: see `Settings.to_dict`.
    """
    clips: dict[tuple[str, float | None, float | None], list[Question]] = {}
    paths: dict[tuple[str, float | None, float | None], str] = {}
    places = {}
    for pair in pairs:
        clip = (hashes[pair.ego], pair.start_s, pair.end_s)
        paths.setdefault(clip, pair.ego)
        questions = clips.setdefault(clip, [])
        for kind, query in queries[pair.segment].items():
            key = answer_key(*clip, query, teacher, settings)
            places[pair.segment, kind] = key
            if all(key != question.key for question in questions):
                questions.append(Question(key, query, pair.segment, pair.split, kind))
    tasks = [Task(paths[clip], clip[1], clip[2], clip[0], tuple(questions)) for clip, questions in clips.items()]
    return Plan(tasks, places)


# An answers folder: one teacher, one way of asking, one process group at work in it.

MANIFEST, FAILURES = "manifest.json", "failures.json"


def open_folder(folder: Path, manifest: dict[str, Any]) -> list[Answer]:
    """Check that the folder is this teacher's, note what is asked, and return the answers that are there.

    Raises:
        Ego2ExoError: it holds answers of another teacher or to other questions; says what differs.
    """
    found, path = read_answers(folder), folder / MANIFEST
    # A run that got no answer binds nobody.
    if found and path.is_file():
        _check(folder, _read(path), manifest)
    strangers = [a for a in found if not _is_ours(a, manifest)]
    if strangers:
        other = strangers[0]
        differing = differences(_about(other.teacher, other.settings), _about_manifest(manifest))
        raise Ego2ExoError(
            f"{folder} holds {len(strangers)} answer(s) of another teacher or other settings "
            f"({shorten_list([f'{a.segment} {a.kind}' for a in strangers], 3)}): {shorten_list(differing)}",
            "one teacher and one way of asking in a folder",
            "give another --out, or the same as before",
        )
    write_atomic(path, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return found


def done_keys(folder: Path, found: Sequence[Answer], top_k: int) -> set[str]:
    """Keys whose answer is there, with its logits where these are wanted."""
    return {a.key for a in found if not top_k or top_k_path(folder, a.key).is_file()}


@dataclass(frozen=True)
class Finished:
    """What the folder holds now.

    Args:
        answers: number of answers to the questions of this run.
        missing: number of this run's questions without one.
        flags: how many of the answers have which flag.
        others: number of answers kept beside: of other splits and of segments that the pairs lack.
        dropped: number of answers left out: of a video that has changed, or under a segment's former name.
    """

    answers: int
    missing: int
    flags: dict[str, int]
    others: int
    dropped: int


def finish_folder(folder: Path, plan: Plan, chosen: Sequence[Pair], pairs: Sequence[Pair]) -> Finished:
    """Put all answers in order in one file.

    Order: that of the pairs, then of the kinds; then answers of segments that the pairs lack.

    Args:
        folder: of the answers.
        plan: of this run.
        chosen: the pairs of this run.
        pairs: all of the pairs file.
    """
    found = read_answers(folder)
    by_key = {answer.key: answer for answer in found}
    splits = {pair.segment: pair.split for pair in pairs}
    ours = []
    for (segment, kind), key in plan.places.items():
        if key in by_key:
            ours.append(dataclasses.replace(by_key[key], segment=segment, kind=kind, split=splits[segment]))
    asked = {pair.segment for pair in chosen}
    # A segment whose answer was taken over under a new name has no other use for the old record.
    used = {answer.key for answer in ours}
    others = [a for a in found if a.segment not in asked and not (a.key in used and a.segment not in splits)]
    places = {pair.segment: number for number, pair in enumerate(pairs)}
    order = {kind: number for number, kind in enumerate(dict.fromkeys(kind for _, kind in plan.places))}
    ordered = sorted(
        [*ours, *others], key=lambda a: (places.get(a.segment, len(places)), order.get(a.kind, len(order)))
    )
    write_answers(folder, ordered)
    flags = Counter(flag for answer in ours for flag in answer.flags)
    dropped = len(found) - len(
        {(a.key, a.segment, a.kind) for a in found} & {(a.key, a.segment, a.kind) for a in ordered}
    )
    return Finished(len(ours), len(plan.places) - len(ours), dict(flags), len(others), dropped)


def write_failures(folder: Path, failures: Sequence[dict[str, str]]) -> None:
    """List the clips without answers and why; no file where there is none."""
    path = folder / FAILURES
    if not failures:
        path.unlink(missing_ok=True)
        return
    write_atomic(path, json.dumps(list(failures), indent=1, ensure_ascii=False) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        manifest = read_json(path, "a manifest")
        _about_manifest(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Ego2ExoError(
            f"{path} is damaged ({error})", "what `llava-ego2exo teach` wrote", "delete this file; answers stay"
        ) from error
    return manifest


def _check(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    differing = differences(_about_manifest(old), _about_manifest(new))
    # Logits can be added to answers without any; those of another k cannot be told apart.
    kept = ("seed", "queries", "top_k") if old.get("top_k") else ("seed", "queries")
    differing += differences({name: old.get(name) for name in kept}, {name: new[name] for name in kept})
    if differing:
        raise Ego2ExoError(
            f"{folder} was made otherwise: {shorten_list(differing, 10)}",
            "the same teacher, settings and queries in one folder: answers are never mixed",
            "give another --out, or the same as before",
        )


def _about_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    return _about(manifest["teacher"]["fingerprint"], manifest["settings"])


def _about(teacher: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"teacher": teacher, **settings}


def _is_ours(answer: Answer, manifest: dict[str, Any]) -> bool:
    return _about(answer.teacher, answer.settings) == _about_manifest(manifest)


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
            f"{len(lost)} ego clip(s) are not there or may not be read: {shorten_list([named(f) for f in lost])}",
            f"at most {allowed} (--max-failures)",
            "mend the paths in the pairs file, or see `llava-ego2exo pairs check`",
        )
    return lost


def _teacher(job: Job) -> tuple[Settings, str]:
    """How the teacher is asked, and which it is; loads no weight."""
    from ...host.checkpoint.config import read_config
    from ...host.checkpoint.files import fingerprint
    from ...host.inference.prompts import how_asked

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
