"""`llava-ego2exo teach`: plan on the first process, answer on all of them, put in order on the first again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.processes import Ranks, clip_bar, started_ranks
from ...common.text import shorten_list
from ...errors import Ego2ExoError
from ...host.inference.batches import answered, is_open, unfinished
from ...host.inference.clips import Seen, read_ahead, read_clip
from ...host.inference.settings import Settings
from ...video.cache import Reader, cache_stats, format_stats
from . import quality
from .job import Job
from .preparation import Finished, Prepared, Task, finish_folder, named, prepare, write_failures
from .store import Answer, AnswerStore
from .top_k import TopK, save_top_k

if TYPE_CHECKING:
    from ...host.inference.answerer import Said, Teacher


# Batches through the teacher, and its answers onto the disk.


@dataclass
class Tally:
    """What one process has done.

    Args:
        clips: answered or failed.
        tokens: generated.
        seconds: of each batch, reading included as far as the model waited for it.
        sizes: clips of each batch.
        failures: segment, ego path and reason of each clip without answers.
    """

    clips: int = 0
    tokens: int = 0
    seconds: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Work:
    """What one process needs to answer its batches.

    Args:
        folder: of the answers.
        rank: of the process.
        teacher: the loaded model.
        fingerprint: of the model.
        settings: how it is asked.
        done: keys of answers that are there.
        workers: reading threads.
        read: what reads clips.
    """

    folder: Path
    rank: int
    teacher: Teacher
    fingerprint: str
    settings: Settings
    done: set[str]
    workers: int
    read: Reader | None = None

    def answer(self, batches: Sequence[tuple[Task, ...]]) -> Iterator[Tally]:
        """Answer batch after batch; yields the tally so far after each."""
        tally = Tally()
        with AnswerStore(self.folder, self.rank) as store:
            began = time.perf_counter()
            for batch, clips in read_ahead(batches, self._read, self.workers):
                said = answered(batch, clips, self.done, self._ask)
                store.append(self._records(batch, said, tally))
                tally.clips += len(batch)
                tally.sizes.append(len(batch))
                tally.seconds.append(time.perf_counter() - began)
                began = time.perf_counter()
                yield tally

    def _read(self, task: Task) -> Seen | Ego2ExoError:
        return read_clip(task, self.settings, self.teacher.preprocess, self.read)

    def _ask(self, tasks: list[Task], clips: list[Seen]) -> list[list[Said] | Ego2ExoError]:
        from ...host.inference.answerer import memory_told

        questions = [[clip.preface + q.query for q in task.questions] for task, clip in zip(tasks, clips, strict=True)]
        with memory_told(len(clips), sum(map(len, questions))):
            return self.teacher.answer([clip.pixels for clip in clips], questions)

    def _records(
        self, batch: tuple[Task, ...], said: list[list[Said] | Ego2ExoError], tally: Tally
    ) -> list[Answer]:  # fmt: skip
        records = []
        for task, answers in zip(batch, said, strict=True):
            if isinstance(answers, Ego2ExoError):
                # One that was answered and only went along in its batch has not failed.
                if is_open(task, self.done):
                    tally.failures.append(
                        {"segment": task.questions[0].segment, "ego": task.path, "reason": answers.given}
                    )
                continue
            for question, answer in zip(task.questions, answers, strict=bool(answers)):
                tally.tokens += len(answer.tokens)
                if question.key not in self.done:
                    records.append(self._record(task, question, answer))
        return records

    def _record(self, task: Task, question: Any, said: Said) -> Answer:
        if said.ids is not None:
            # Before the record: an answer on file has its logits.
            top = TopK(said.ids.numpy(), said.logits.numpy(), said.tokens.int().numpy())
            save_top_k(self.folder, question.key, top)
        return Answer(
            key=question.key, segment=question.segment, split=question.split, kind=question.kind,
            query=question.query, answer=said.text, flags=quality.flags(said.text, said.ended),
            tokens=len(said.tokens), video=task.video, start_s=task.start_s, end_s=task.end_s,
            teacher=self.fingerprint, settings=self.settings.to_dict(),
        )  # fmt: skip


# How long a run will take and how much it will write, from a few of its batches.

# Compressed: an id, a half-precision logit and what the container adds.
_BYTES_PER_LOGIT = 4.5


def sample_batches(batches: Sequence[tuple[Task, ...]], clips: int, size: int) -> list[tuple[Task, ...]]:
    """Batches of about `clips` clips, spread evenly over all: clips of one take are alike in length."""
    count = min(max(-(-clips // size), 1), len(batches))
    return [batches[number * len(batches) // count] for number in range(count)]


def estimate(top_k: int, batches: Sequence[tuple[Task, ...]], tallies: Sequence[Tally]) -> str:
    """Time, tokens and bytes for the clips that are left.

    Args:
        top_k: logits kept for each token.
        batches: all that were unfinished when the run began.
        tallies: of the processes.
    """
    timed = [_steady(tally) for tally in tallies if tally.sizes]
    clips, seconds = (sum(part) for part in zip(*timed, strict=True))
    asked = sum(tally.clips for tally in tallies)
    left = sum(map(len, batches)) - asked
    per_clip = seconds / max(clips, 1)
    tokens = left * sum(tally.tokens for tally in tallies) / max(asked, 1)
    lines = [f"timed {clips} clip(s): {per_clip:.3g} s a clip on each of {len(tallies)} process(es)"]
    if not left:
        return "\n".join([*lines, "left: nothing, these were all"])
    lines.append(f"left: {left} clips, about {_duration(left * per_clip / len(tallies))} and {tokens:,.0f} tokens")
    if top_k:
        lines.append(f"top-k logits of these: about {tokens * top_k * _BYTES_PER_LOGIT / 1e9:.3g} GB")
    failed = sum(len(tally.failures) for tally in tallies)
    if failed:
        lines.append(f"{failed} of the clips failed; run without --estimate to have them listed")
    return "\n".join([*lines, "answers so far are kept: the same command without --estimate goes on from here"])


def _duration(seconds: float) -> str:
    for size, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.2g} seconds"


def _steady(tally: Tally) -> tuple[int, float]:
    """Clips and seconds without the first batch, which warms everything up, where there are more."""
    start = 1 if len(tally.sizes) > 1 else 0
    return sum(tally.sizes[start:]), sum(tally.seconds[start:])


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
    from ...host.inference.answerer import load_teacher

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
            f"{len(failures)} clip(s) failed, all others are answered: {shorten_list(list(map(named, failures)), 10)}",
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
