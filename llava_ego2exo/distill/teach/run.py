"""`llava-ego2exo teach`: plan on the first process, answer on all of them, finish the file on the first again."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...common.processes import Ranks, started_ranks
from ...common.text import shorten_list
from ...errors import Ego2ExoError
from ...host.inference.clip_jobs import Batch, ClipJob, ClipProgress, ClipTask, clip_batches, pending
from ...video.cache import Reader, cache_stats, format_stats
from .job import TeachJob, flags
from .preparation import TeacherQuery, TeachPreparation, failure_line, failure_of, prepare
from .store import Answer, AnswerCounts, TopK, answer_store, finish_folder, save_top_k, write_failures

__all__ = ["TeachJob", "teach"]
# Compressed: an id, a half-precision logit and what the container adds.
_BYTES_PER_LOGIT = 4.5


def teach(job: TeachJob) -> str:
    """Let the teacher answer; returns the report.

    Raises:
        Ego2ExoError: something given is wrong (before any weight loads), or more clips failed than allowed (after all
            others are answered).
    """
    with started_ranks() as ranks, contextlib.ExitStack() as stack:
        prepared = ranks.first(lambda: prepare(job, stack))
        batches = pending(clip_batches(prepared.tasks, job.batch_size), prepared.completed)
        chosen = sample_batches(batches, job.estimate, job.batch_size) if job.estimate else batches
        read = job.reading.reader()
        mine = chosen[ranks.rank :: ranks.world]
        progress = _answer(job, ranks, prepared, mine, read) if mine else ClipProgress()
        gathered, stats = ranks.gather(progress), ranks.gather(cache_stats(read))
        return ranks.first(lambda: "\n".join([_finish(job, prepared, batches, gathered), *format_stats(stats)]))


@dataclass(frozen=True)
class _TeacherAnswers(ClipJob[TeacherQuery]):
    fingerprint: str

    def record(self, task: ClipTask[TeacherQuery], question: TeacherQuery, result) -> Answer:  # noqa: ANN001
        if result.ids is not None:
            # Before the record: an answer on file has its logits.
            top = TopK(result.ids.numpy(), result.logits.numpy(), result.tokens.int().numpy())
            save_top_k(self.store.folder, question.key, top)
        return Answer(
            key=question.key, segment=question.segment, split=question.split, kind=question.kind,
            query=question.text, answer=result.text, flags=flags(result.text, result.ended),
            tokens=len(result.tokens), video=task.video, start_s=task.start_s, end_s=task.end_s,
            teacher=self.fingerprint, settings=self.settings.to_dict(),
        )  # fmt: skip


def _answer(
    job: TeachJob, ranks: Ranks, prepared: TeachPreparation, batches: list[Batch[TeacherQuery]], read: Reader
) -> ClipProgress:
    from ...host.inference.served import open_answerer

    answerer = open_answerer(job.model, job.model_base, prepared.settings, job, ranks.local, job.top_k)
    answers = _TeacherAnswers(
        answerer, prepared.settings, answer_store(job.out), prepared.completed, job.workers, read, prepared.fingerprint
    )
    return answers.run(batches, ranks, "teaching")


def _finish(
    job: TeachJob, prepared: TeachPreparation, batches: Sequence[Batch[TeacherQuery]], gathered: Sequence[ClipProgress]
) -> str:  # fmt: skip
    asked = sum(progress.clips for progress in gathered)
    timed = estimate(job.top_k, batches, gathered) if job.estimate and asked else ""
    if timed and asked < sum(map(len, batches)):
        return timed
    failures = [*prepared.lost, *(failure_of(*failure) for progress in gathered for failure in progress.failures)]
    order = {pair.segment: number for number, pair in enumerate(prepared.pairs)}
    failures.sort(key=lambda failure: order[failure["segment"]])
    counts = finish_folder(Path(job.out), prepared.places, prepared.chosen, prepared.pairs)
    write_failures(Path(job.out), failures)
    text = "\n".join([*filter(None, [timed]), _report(job, asked, counts)])
    lines = [failure_line(failure) for failure in failures]
    if len(failures) > job.max_failures:
        print(text, flush=True)  # noqa: T201
        raise Ego2ExoError(
            f"{len(failures)} clip(s) failed, all others are answered: {shorten_list(lines, 10)}",
            f"at most {job.max_failures} (--max-failures)",
            f"replace these clips ({job.out}/failures.json) and run the same command again",
        )
    return "\n".join([text, *(f"failed, allowed: {line}" for line in lines)])


def _report(job: TeachJob, asked: int, counts: AnswerCounts) -> str:
    if not asked:
        lines = [f"nothing to do: {job.out} holds all {counts.answers} answers"]
    else:
        lines = [f"{counts.answers} of {counts.answers + counts.missing} answers in {job.out}/answers.jsonl"]
    if counts.flags:
        found = ", ".join(f"{flag} {count}" for flag, count in sorted(counts.flags.items()))
        lines.append(f"flagged, and left out of training files unless asked for: {found}")
    if 2 * counts.flags.get("cut", 0) > counts.answers:
        lines.append(f"most answers were cut: give more than --max-new-tokens {job.max_new_tokens}, with a new --out")
    if counts.others:
        lines.append(f"kept beside: {counts.others} answer(s) of other splits or of segments that the pairs lack")
    if counts.dropped:
        lines.append(f"dropped: {counts.dropped} answer(s) of clips that have changed or been renamed")
    return "\n".join(lines)


def sample_batches(batches: Sequence[Batch[TeacherQuery]], clips: int, size: int) -> list[Batch[TeacherQuery]]:
    """Batches of about `clips` clips, spread evenly over all: clips of one take are alike in length."""
    count = min(max(-(-clips // size), 1), len(batches))
    return [batches[number * len(batches) // count] for number in range(count)]


def estimate(top_k: int, batches: Sequence[Batch[TeacherQuery]], gathered: Sequence[ClipProgress]) -> str:
    """Time, tokens and bytes for the clips that are left."""
    # Without the first batch, which warms everything up, where there are more.
    steady = [slice(1 if len(progress.sizes) > 1 else 0, None) for progress in gathered]
    clips = sum(sum(progress.sizes[part]) for progress, part in zip(gathered, steady, strict=True))
    seconds = sum(sum(progress.seconds[part]) for progress, part in zip(gathered, steady, strict=True))
    asked = sum(progress.clips for progress in gathered)
    left, per_clip = sum(map(len, batches)) - asked, seconds / max(clips, 1)
    tokens = left * sum(progress.tokens for progress in gathered) / max(asked, 1)
    lines = [f"timed {clips} clip(s): {per_clip:.3g} s a clip on each of {len(gathered)} process(es)"]
    if not left:
        return "\n".join([*lines, "left: nothing, these were all"])
    lines.append(f"left: {left} clips, about {duration(left * per_clip / len(gathered))} and {tokens:,.0f} tokens")
    if top_k:
        lines.append(f"top-k logits of these: about {tokens * top_k * _BYTES_PER_LOGIT / 1e9:.3g} GB")
    failed = sum(len(progress.failures) for progress in gathered)
    if failed:
        lines.append(f"{failed} of the clips failed; run without --estimate to have them listed")
    return "\n".join([*lines, "answers so far are kept: the same command without --estimate resumes from here"])


def duration(seconds: float) -> str:
    """Seconds in a readable unit: "2.5 hours"."""
    for size, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.2g} seconds"
