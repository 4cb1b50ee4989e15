"""`llava-ego2exo teach`: plan on the first process, answer on all of them, put in order on the first again."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from ..common.processes import Ranks, clip_bar, started_ranks
from ..errors import Ego2ExoError
from ..runs.batches import unfinished
from ..runs.listing import listed
from ..video.cache import Reader, cache_stats, format_stats
from .answer_folder import Finished, finish_folder, write_failures
from .asking import Tally, Work
from .estimate import estimate, sample_batches
from .job import Job
from .plan import Task
from .preparing import Prepared, named, prepare

__all__ = ["Job", "teach"]


def teach(job: Job) -> str:
    """Let the teacher answer; returns what there is to tell.

    Raises:
        Ego2ExoError: something given is wrong (before any weight loads), or more clips failed than allowed (after all
            others are answered).
    """
    with started_ranks() as ranks, contextlib.ExitStack() as stack:
        prepared = ranks.first(lambda: prepare(job, stack))
        batches = unfinished(prepared.plan.batches(job.batch_size), prepared.done)
        chosen = sample_batches(batches, job.estimate, job.batch_size) if job.estimate else batches
        read = job.reading.reader()
        tally = _work(job, ranks, prepared, chosen, read)
        tallies, counts = ranks.gather(tally), ranks.gather(cache_stats(read))
        return ranks.first(lambda: "\n".join([_finish(job, prepared, batches, tallies), *format_stats(counts)]))


def _work(job: Job, ranks: Ranks, prepared: Prepared, batches: list[tuple[Task, ...]], read: Reader) -> Tally:
    mine = batches[ranks.rank :: ranks.world]
    if not mine:
        return Tally()
    from ..host.teacher import load_teacher

    teacher = load_teacher(
        job.model, job.model_base, prepared.settings.bits, prepared.settings.dtype, ranks.local,
        template=prepared.settings.template, max_new_tokens=job.max_new_tokens, top_k=job.top_k,
    )  # fmt: skip
    work = Work(
        Path(job.out), ranks.rank, teacher, prepared.fingerprint, prepared.settings, prepared.done, job.workers, read
    )
    tally, total = Tally(), sum(map(len, mine))
    with clip_bar(ranks, "teaching", total) as bar:
        for tally in work.answer(mine):
            bar.update(tally.clips - bar.n)
            rate = tally.tokens / max(sum(tally.seconds), 1e-9)
            bar.set_postfix_str(f"{rate:.0f} tokens/s, {len(tally.failures)} failed")
    return tally


def _finish(
    job: Job, prepared: Prepared, batches: Sequence[tuple[Task, ...]], tallies: Sequence[Tally]
) -> str:  # fmt: skip
    failures = [*prepared.lost, *(failure for tally in tallies for failure in tally.failures)]
    asked = sum(tally.clips for tally in tallies)
    timed = estimate(job.top_k, batches, tallies) if job.estimate and asked else ""
    if timed and asked < sum(map(len, batches)):
        return timed
    order = {pair.segment: number for number, pair in enumerate(prepared.pairs)}
    failures.sort(key=lambda failure: order[failure["segment"]])
    finished = finish_folder(Path(job.out), prepared.plan, prepared.chosen, prepared.pairs)
    write_failures(Path(job.out), failures)
    text = "\n".join([*filter(None, [timed]), _report(job, prepared, finished, tallies)])
    if len(failures) > job.max_failures:
        print(text, flush=True)  # noqa: T201
        raise Ego2ExoError(
            f"{len(failures)} clip(s) failed, all others are answered: {listed([named(f) for f in failures], 10)}",
            f"at most {job.max_failures} (--max-failures)",
            f"mend these clips ({job.out}/failures.json) and run the same command again, which asks about them, with "
            "the other clips of their batches",
        )
    return "\n".join([text, *(f"failed, allowed: {named(failure)}" for failure in failures)])


def _report(job: Job, prepared: Prepared, finished: Finished, tallies: Sequence[Tally]) -> str:
    if not any(tally.clips for tally in tallies):
        lines = [f"nothing to do: {job.out} holds all {finished.answers} answers"]
    else:
        lines = [f"{finished.answers} of {finished.answers + finished.missing} answers in {job.out}/answers.jsonl"]
    if finished.flags:
        counts = ", ".join(f"{flag} {count}" for flag, count in sorted(finished.flags.items()))
        lines.append(f"flagged, and left out of training files unless asked for: {counts}")
    if 2 * finished.flags.get("cut", 0) > finished.answers:
        lines.append(
            f"most answers were cut at --max-new-tokens {job.max_new_tokens}: for longer ones give a larger number, "
            "with a new --out"
        )
    if finished.others:
        lines.append(f"kept beside: {finished.others} answer(s) of other splits or of segments that the pairs lack")
    if finished.dropped:
        lines.append(f"dropped: {finished.dropped} answer(s) of clips that have changed or been renamed")
    return "\n".join(lines)
