"""`llava-ego2exo teach`: plan on the first process, answer on all of them, put in order on the first again."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Ego2ExoError
from .answer_folder import Finished, done_keys, finish_folder, locked, open_folder, write_failures
from .asking import Tally, Work
from .estimate import estimate, sample_batches
from .hashes import video_hashes
from .listing import listed
from .pairs import Pair, read_pairs
from .plan import Plan, Task, is_open, make_plan, unfinished
from .queries import Queries, draw_queries, read_queries
from .ranks import Ranks, started_ranks
from .settings import Settings


@dataclass(frozen=True)
class Job:
    """What the user asks for.

    Args:
        pairs: a pairs.jsonl.
        model: folder or hub name of the teacher.
        out: the answers folder.
        model_base: what the teacher was trained from, where its folder holds no whole model.
        template: LLaVA's conversation template; None: the one of the checkpoint's class, where that is certain.
        dtype: of the weights; None: bfloat16 on a GPU, else float32.
        bits: 4, 8 or 16.
        queries: a JSON file of queries; None: our own.
        seed: of the wording drawn for each clip.
        split: "train", "val", "test" or "all".
        frames_upbound: most frames of a clip; 0 for no bound.
        video_fps: frames taken a second.
        force_sample: always take `frames_upbound` frames; None: as the checkpoint's config says.
        time_instruction: tell the model the times of the frames; None: as the checkpoint's config says.
        max_new_tokens: most tokens of an answer.
        batch_size: clips that go through the model together, each with all its queries.
        top_k: how many logits of each answer token to keep; 0: none.
        workers: threads that read clips.
        max_failures: how many clips may fail.
        estimate: how many clips to time; 0: answer all.
    """

    pairs: str
    model: str
    out: str
    model_base: str | None = None
    template: str | None = None
    dtype: str | None = None
    bits: int = 16
    queries: str | None = None
    seed: int = 0
    split: str = "train"
    frames_upbound: int = 32
    video_fps: int = 1
    force_sample: bool | None = None
    time_instruction: bool | None = None
    max_new_tokens: int = 256
    batch_size: int = 4
    top_k: int = 0
    workers: int = 4
    max_failures: int = 0
    estimate: int = 0

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "top_k": 0, "workers": 1, "max_failures": 0, "estimate": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                given = f"--{name.replace('_', '-')} {getattr(self, name)}"
                raise Ego2ExoError(given, f"{value} or more", "mend this flag")


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


def teach(job: Job) -> str:
    """Let the teacher answer; returns what there is to tell.

    Raises:
        Ego2ExoError: something given is wrong (before any weight loads), or more clips failed than allowed (after all
            others are answered).
    """
    with started_ranks() as ranks, contextlib.ExitStack() as stack:
        prepared = ranks.first(lambda: _prepare(job, stack))
        batches = unfinished(prepared.plan.batches(job.batch_size), prepared.done)
        chosen = sample_batches(batches, job.estimate, job.batch_size) if job.estimate else batches
        tally = _work(job, ranks, prepared, chosen)
        tallies = ranks.gather(tally)
        return ranks.first(lambda: _finish(job, prepared, batches, tallies))


def _prepare(job: Job, stack: contextlib.ExitStack) -> Prepared:
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
            f"{len(lost)} ego clip(s) are not there or may not be read: {listed([_named(f) for f in lost])}",
            f"at most {allowed} (--max-failures)",
            "mend the paths in the pairs file, or see `llava-ego2exo pairs check`",
        )
    return lost


def _teacher(job: Job) -> tuple[Settings, str]:
    """How the teacher is asked, and which it is; loads no weight."""
    import torch

    from ..host.checkpoints import describe
    from ..host.command_line import read_config
    from ..host.fingerprint import fingerprint
    from ..host.flavour import package_folder
    from ..host.loading import check_base
    from ..host.templates import choose_template

    package_folder()
    config = read_config(job.model)
    _need(job, config.get("vocab_size", job.top_k))
    check_base(describe(job.model), job.model_base, config)
    settings = Settings(
        template=choose_template(job.model, job.template),
        frames_upbound=job.frames_upbound,
        video_fps=job.video_fps,
        force_sample=_own(job.force_sample, config, "force_sample"),
        time_instruction=_own(job.time_instruction, config, "add_time_instruction"),
        max_new_tokens=job.max_new_tokens,
        bits=job.bits,
        dtype=job.dtype or ("bfloat16" if torch.cuda.is_available() else "float32"),
    )
    return settings, fingerprint(job.model, job.model_base)


def _need(job: Job, vocabulary: int) -> None:
    from importlib.util import find_spec

    if job.top_k > vocabulary:
        raise Ego2ExoError(f"--top-k {job.top_k}", f"at most {vocabulary}, the vocabulary", "give a smaller one")
    needed = {"decord": "decord", **({"bitsandbytes": "bitsandbytes"} if job.bits < 16 else {})}
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise Ego2ExoError(
            f"{', '.join(missing)} is not installed", "", f"pip install {' '.join(needed[name] for name in missing)}"
        )


def _own(given: bool | None, config: dict[str, Any], key: str) -> bool:
    return bool(config.get(key, False)) if given is None else given


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


def _work(job: Job, ranks: Ranks, prepared: Prepared, batches: list[tuple[Task, ...]]) -> Tally:
    mine = batches[ranks.rank :: ranks.world]
    if not mine:
        return Tally()
    from ..host.teacher import load_teacher

    teacher = load_teacher(
        job.model, job.model_base, prepared.settings.bits, prepared.settings.dtype, ranks.local,
        template=prepared.settings.template, max_new_tokens=job.max_new_tokens, top_k=job.top_k,
    )  # fmt: skip
    work = Work(Path(job.out), ranks.rank, teacher, prepared.fingerprint, prepared.settings, prepared.done, job.workers)
    tally, total = Tally(), sum(map(len, mine))
    with _bar(ranks, total) as bar:
        for tally in work.answer(mine):
            bar.update(tally.clips - bar.n)
            rate = tally.tokens / max(sum(tally.seconds), 1e-9)
            bar.set_postfix_str(f"{rate:.0f} tokens/s, {len(tally.failures)} failed")
    return tally


def _bar(ranks: Ranks, total: int) -> Any:
    from tqdm import tqdm

    name = "teaching" if ranks.world == 1 else f"teaching (process 1 of {ranks.world})"
    # A log file gets a line every half minute, not ten a second.
    pause = 0.5 if sys.stderr.isatty() else 30
    return tqdm(total=total, desc=name, unit="clip", disable=ranks.rank != 0, mininterval=pause)


def _finish(
    job: Job, prepared: Prepared, batches: Sequence[tuple[Task, ...]], tallies: Sequence[Tally]
) -> str:  # fmt: skip
    failures = [*prepared.lost, *(failure for tally in tallies for failure in tally.failures)]
    asked = sum(tally.clips for tally in tallies)
    if job.estimate and asked < sum(map(len, batches)):
        return estimate(job.top_k, batches, tallies)
    order = {pair.segment: number for number, pair in enumerate(prepared.pairs)}
    failures.sort(key=lambda failure: order[failure["segment"]])
    finished = finish_folder(Path(job.out), prepared.plan, prepared.chosen, prepared.pairs)
    write_failures(Path(job.out), failures)
    text = _report(job, prepared, finished, tallies)
    if len(failures) > job.max_failures:
        print(text, flush=True)  # noqa: T201
        raise Ego2ExoError(
            f"{len(failures)} clip(s) failed, all others are answered: {listed([_named(f) for f in failures], 10)}",
            f"at most {job.max_failures} (--max-failures)",
            f"mend these clips and run the same command again, which asks about them alone ({job.out}/failures.json)",
        )
    return "\n".join([text, *(f"failed, allowed: {_named(failure)}" for failure in failures)])


def _named(failure: dict[str, str]) -> str:
    reason = failure["reason"]
    return f"{failure['segment']}: {reason if failure['ego'] in reason else failure['ego'] + ': ' + reason}"


def _report(job: Job, prepared: Prepared, finished: Finished, tallies: Sequence[Tally]) -> str:
    if not any(tally.clips for tally in tallies):
        lines = [f"nothing to do: {job.out} holds all {finished.answers} answers"]
    else:
        lines = [f"{finished.answers} of {finished.answers + finished.missing} answers in {job.out}/answers.jsonl"]
    if finished.flags:
        counts = ", ".join(f"{flag} {count}" for flag, count in sorted(finished.flags.items()))
        lines.append(f"flagged, and left out of training files unless asked for: {counts}")
    if finished.others:
        lines.append(f"kept beside: {finished.others} answer(s) of other splits or of segments that the pairs lack")
    if finished.dropped:
        lines.append(f"dropped: {finished.dropped} answer(s) of clips that have changed or been renamed")
    return "\n".join(lines)


def _say_plan(job: Job, settings: Settings, fingerprint: str, plan: Plan, done: set[str]) -> None:
    """On standard error, so that standard output is the report alone."""
    left = sum(is_open(task, done) for task in plan.tasks)
    shown = ", ".join(f"{name} {value}" for name, value in settings.to_dict().items())
    lines = [
        f"teacher: {job.model} ({fingerprint[:12]}); {shown}",
        f"clips: {len(plan.tasks)} of split {job.split}, {len(plan.places)} answers; {left} clip(s) left to ask about",
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201
