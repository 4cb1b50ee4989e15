"""`llava-ego2exo eval`: plan on the first process, ask on all of them, parse, judge and report on the first again."""

from __future__ import annotations

import contextlib
import gc
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ..common.processes import Ranks, started_ranks
from ..common.text import shorten_list
from ..errors import Ego2ExoError
from ..host.inference.clip_jobs import ClipJob, ClipTask, PreparedClip, clip_batches, pending
from ..video.cache import Reader, cache_stats, format_stats
from .items import FAILED, LIKELIHOOD, Outcome, Reply, reply_store
from .job import EvalJob
from .plan import ItemQuestion
from .preparation import EvalPreparation, prepare
from .results import finish

__all__ = ["evaluate"]


def evaluate(job: EvalJob) -> dict[str, Any]:
    """Ask the models, parse their replies, and write the report; what is done already is not done again.

    Returns:
        What `metrics.json` holds.

    Raises:
        Ego2ExoError: something given is wrong (before any weight loads), or more questions failed than allowed (after
            all others are asked, and the report is written).
    """
    with started_ranks() as ranks, contextlib.ExitStack() as stack:
        prepared = ranks.first(lambda: prepare(job, stack))
        read = job.reading.reader()
        _ask_all(job, ranks, prepared, read)
        stats = format_stats(ranks.gather(cache_stats(read)))
        if ranks.rank == 0 and stats:
            print("\n".join(stats), flush=True)  # noqa: T201
        return ranks.first(lambda: _finish(job, prepared))


@dataclass(frozen=True)
class _Replies(ClipJob[ItemQuestion]):
    mode: str

    def ask(self, clips: list[PreparedClip], questions: list[tuple[ItemQuestion, ...]]) -> list[Any]:
        if self.mode != LIKELIHOOD:
            return super().ask(clips, questions)
        from ..host.inference.option_scoring import MultipleChoiceQuestion, letter_scores

        asked = [
            [MultipleChoiceQuestion(clip.preface + question.text, question.options) for question in own]
            for clip, own in zip(clips, questions, strict=True)
        ]
        return letter_scores(self.answerer, [clip.pixels for clip in clips], asked)

    def record(self, task: ClipTask[ItemQuestion], question: ItemQuestion, result: Any) -> Reply:
        if self.mode == LIKELIHOOD:
            return Reply(question.id, question.key, scores=result)
        flags = (() if result.text else ("empty",)) + (() if result.ended else ("cut",))
        return Reply(question.id, question.key, result.text, flags=flags, tokens=len(result.tokens))

    def failure(self, question: ItemQuestion, error: Ego2ExoError) -> Reply:
        return Reply(question.id, question.key, error=error.given)


def _ask_all(job: EvalJob, ranks: Ranks, prepared: EvalPreparation, read: Reader) -> None:
    """Each model is loaded once for all its modes."""
    import torch

    from ..host.inference.served import open_answerer

    for model, modes in groupby(prepared.runs, key=lambda run: run.model):
        mine = []
        for run in modes:
            batches = pending(clip_batches(run.tasks, job.batch_size), run.completed)
            mine.append((run, batches[ranks.rank :: ranks.world]))
        if not any(batches for _, batches in mine):
            continue
        answerer = open_answerer(model.path, model.base, mine[0][0].settings, job, ranks.local)
        for run, batches in mine:
            replies = _Replies(
                answerer, run.settings, reply_store(run.folder), run.completed, job.workers, read, run.mode
            )
            replies.run(batches, ranks, f"{model.name}, {run.mode}")
        del answerer, replies
        gc.collect()
        torch.cuda.empty_cache()


def _finish(job: EvalJob, prepared: EvalPreparation) -> dict[str, Any]:
    finished = finish(Path(job.out), prepared, job.judge, job.compare_to)
    failed = [one for one in (*finished.outcomes, *finished.described) if one.state == FAILED]
    lost = [(one.item if isinstance(one, Outcome) else one.items[0], one.error) for one in failed]
    # A question is one, however many models and modes it failed with.
    count = len({item.id for item, _ in lost})
    if count > job.max_failures:
        videos = {(item.path or item.video, error) for item, error in lost}
        named = sorted(f"{video}: {error}" if video not in error else error for video, error in videos)
        raise Ego2ExoError(
            f"{count} question(s) got no reply and count as wrong, all others are done: {shorten_list(named, 10)}",
            f"at most {job.max_failures} (--max-failures)",
            f"replace these videos and run the same command again, which asks about them alone (report: {job.out})",
        )
    return finished.metrics
