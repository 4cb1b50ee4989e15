"""`llava-ego2exo eval`: plan on the first process, ask on all of them, parse, judge and report on the first again."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ..common.files import write_atomic
from ..common.processes import Ranks, started_ranks
from ..common.text import shorten_list
from ..errors import Ego2ExoError
from ..host.inference.clip_jobs import ClipJob, ClipTask, PreparedClip, clip_batches, pending
from ..video.cache import Reader, cache_stats, format_stats
from .items import FAILED, LIKELIHOOD, Reply, reply_store
from .job import EvalJob
from .plan import MANIFEST, ItemQuestion
from .preparation import EvalPreparation, ModelRun, prepare
from .results import EvalResults, finish

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
        attentions = ranks.gather(_ask_all(job, ranks, prepared, read))
        stats = format_stats(ranks.gather(cache_stats(read)))
        if ranks.rank == 0 and stats:
            print("\n".join(stats), flush=True)  # noqa: T201
        return ranks.first(lambda: _finish(job, prepared, attentions))


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


def _ask_all(job: EvalJob, ranks: Ranks, prepared: EvalPreparation, read: Reader) -> dict[str, str]:
    """Each model is loaded once for all its modes; returns model's name -> how its attention is computed."""
    from ..host.inference.answerer import load_answerer

    attentions = {}
    for model, modes in groupby(prepared.runs, key=lambda run: run.model):
        mine = [(run, _pending(job, run)[ranks.rank :: ranks.world]) for run in modes]
        if not any(batches for _, batches in mine):
            continue
        answerer = load_answerer(model.path, model.base, mine[0][0].settings, ranks.local)
        attentions[model.name] = str(getattr(answerer.model.config, "_attn_implementation", None) or "unknown")
        for run, batches in mine:
            replies = _Replies(
                answerer, run.settings, reply_store(run.folder), run.completed, job.workers, read, run.mode
            )
            replies.run(batches, ranks, f"{model.name}, {run.mode}")
        del answerer, replies
        _free_memory()
    return attentions


def _pending(job: EvalJob, run: ModelRun) -> list[Any]:
    return pending(clip_batches(run.plan.tasks, job.batch_size), run.completed)


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _finish(job: EvalJob, prepared: EvalPreparation, attentions: Sequence[dict[str, str]]) -> dict[str, Any]:
    manifest = _with_attention(Path(job.out), prepared.manifest, attentions)
    finished = finish(Path(job.out), prepared, manifest, job.judge, job.compare_to)
    _refuse_failures(job, finished)
    return finished.metrics


def _with_attention(folder: Path, manifest: dict[str, Any], found: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Known from a loaded model alone; a run that finds every reply on disk keeps what an earlier one stored."""
    seen = {name: how for own in found for name, how in own.items()}
    models = [{**model, "attention": seen.get(model["name"], model["attention"])} for model in manifest["models"]]
    manifest = {**manifest, "models": models}
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def _refuse_failures(job: EvalJob, finished: EvalResults) -> None:
    failed = [one for one in (*finished.outcomes, *finished.described) if one.state == FAILED]
    lost = {(_first(one).path or _first(one).video, one.error) for one in failed}
    # A question is one, however many models and modes it failed with.
    count = len({_first(one).id for one in failed})
    if count > job.max_failures:
        named = sorted(f"{video}: {error}" if video not in error else error for video, error in lost)
        raise Ego2ExoError(
            f"{count} question(s) got no reply and count as wrong, all others are done: {shorten_list(named, 10)}",
            f"at most {job.max_failures} (--max-failures)",
            f"replace these videos and run the same command again, which asks about them alone (report: {job.out})",
        )


def _first(one: Any) -> Any:
    return one.item if hasattr(one, "item") else one.items[0]
