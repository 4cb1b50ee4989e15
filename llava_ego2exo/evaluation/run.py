"""`llava-ego2exo eval`: plan on the first process, ask on all of them, read, judge and report on the first again."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.files import write_atomic
from ..common.processes import Ranks, clip_bar, started_ranks
from ..common.text import shorten_list
from ..errors import Ego2ExoError
from ..host.inference.batches import answered, unfinished
from ..host.inference.clips import Seen, read_ahead, read_clip
from ..video.cache import Reader, cache_stats, format_stats
from .items import FAILED, LIKELIHOOD
from .job import Job
from .plan import Clip, Question
from .preparation import MANIFEST, Asked, Prepared, prepare
from .results import Finished, finish
from .store import Reply, ReplyStore

if TYPE_CHECKING:
    from ..host.inference.answerer import Said, Teacher


# Batches of clips through a model, and its replies onto the disk.


@dataclass
class Tally:
    """What one process has done: clips, questions, and those of them without a reply."""

    clips: int = 0
    questions: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Work:
    """What one process needs to ask its batches.

    Args:
        asked: model, mode, settings, and what is done.
        teacher: the loaded model.
        rank: of the process.
        workers: reading threads.
        read: what reads clips.
    """

    asked: Asked
    teacher: Teacher
    rank: int
    workers: int
    read: Reader | None = None

    def answer(self, batches: Sequence[tuple[Clip, ...]]) -> Iterator[Tally]:
        """Ask batch after batch; yields the tally so far after each."""
        tally = Tally()
        with ReplyStore(self.asked.folder, self.rank) as store:
            for batch, clips in read_ahead(batches, self._read, self.workers):
                replies = self._replies(batch, answered(batch, clips, self.asked.done, self._ask))
                store.append(replies)
                tally.clips += len(batch)
                tally.questions += len(replies)
                tally.failed += sum(bool(reply.error) for reply in replies)
                yield tally

    def _read(self, clip: Clip) -> Seen | Ego2ExoError:
        return read_clip(clip, self.asked.settings, self.teacher.preprocess, self.read)

    def _ask(self, clips: list[Clip], seen: list[Seen]) -> list[Any]:
        from ..host.inference.answerer import memory_told

        pixels, prefaces = [one.pixels for one in seen], [one.preface for one in seen]
        questions = [clip.questions for clip in clips]
        with memory_told(len(pixels), sum(map(len, questions))):
            if self.asked.mode == LIKELIHOOD:
                return _scored(self.teacher, pixels, prefaces, questions)
            texts = [[preface + q.text for q in own] for preface, own in zip(prefaces, questions, strict=True)]
            return self.teacher.answer(pixels, texts)

    def _replies(self, batch: tuple[Clip, ...], results: list[Any]) -> list[Reply]:
        replies = []
        for clip, found in zip(batch, results, strict=True):
            open_questions = [question for question in clip.questions if question.key not in self.asked.done]
            if isinstance(found, Ego2ExoError):
                replies += [Reply(question.id, question.key, error=found.given) for question in open_questions]
                continue
            for question, one in zip(clip.questions, found, strict=bool(found)):
                if question.key not in self.asked.done:
                    replies.append(_reply(question, one))
        return replies


def _scored(
    teacher: Teacher, pixels: list[Any], prefaces: list[str], questions: list[tuple[Question, ...]]
) -> list[Any]:
    from ..host.inference import option_scoring

    asked = [
        [option_scoring.Asked(preface + question.text, question.options) for question in own]
        for preface, own in zip(prefaces, questions, strict=True)
    ]
    return option_scoring.letter_scores(teacher, pixels, asked)


def _reply(question: Question, found: Said | dict[str, float]) -> Reply:
    if isinstance(found, dict):
        return Reply(question.id, question.key, scores=found)
    flags = (() if found.text else ("empty",)) + (() if found.ended else ("cut",))
    return Reply(question.id, question.key, found.text, flags=flags, tokens=len(found.tokens))


__all__ = ["evaluate"]


def evaluate(job: Job) -> dict[str, Any]:
    """Ask the models, read their replies, and write the report; what is done already is not done again.

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
        _tell(ranks, format_stats(ranks.gather(cache_stats(read))))
        return ranks.first(lambda: _finish(job, prepared, attentions))


def _ask_all(job: Job, ranks: Ranks, prepared: Prepared, read: Reader) -> dict[str, str]:
    """Each model is loaded once for all its modes; returns model's name -> how its attention is computed."""
    attentions = {}
    for _, modes in groupby(prepared.asked, key=lambda asked: asked.model):
        mine = [(asked, _mine(job, ranks, asked)) for asked in modes]
        if not any(batches for _, batches in mine):
            continue
        asked = mine[0][0]
        teacher = _load(asked, ranks)
        config = teacher.model.config
        attentions[asked.model.name] = str(getattr(config, "_attn_implementation", None) or "unknown")
        for asked, batches in mine:
            _work(job, ranks, asked, batches, teacher, read)
        del teacher
        _free()
    return attentions


def _mine(job: Job, ranks: Ranks, asked: Asked) -> list[Any]:
    return unfinished(asked.plan.batches(job.batch_size), asked.done)[ranks.rank :: ranks.world]


def _load(asked: Asked, ranks: Ranks) -> Any:
    from ..host.inference.answerer import load_teacher

    settings, model = asked.settings, asked.model
    return load_teacher(
        model.path, model.base, settings.bits, settings.dtype, ranks.local,
        template=settings.template, max_new_tokens=settings.max_new_tokens,
    )  # fmt: skip


def _work(job: Job, ranks: Ranks, asked: Asked, batches: Sequence[Any], teacher: Any, read: Reader) -> None:
    work = Work(asked, teacher, ranks.rank, job.workers, read)
    with clip_bar(ranks, f"{asked.model.name}, {asked.mode}", sum(map(len, batches))) as bar:
        for tally in work.answer(batches):
            bar.update(tally.clips - bar.n)
            bar.set_postfix_str(f"{tally.questions} questions, {tally.failed} failed")


def _tell(ranks: Ranks, lines: Sequence[str]) -> None:
    if ranks.rank == 0:
        for line in lines:
            print(line, flush=True)  # noqa: T201


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _finish(job: Job, prepared: Prepared, attentions: Sequence[dict[str, str]]) -> dict[str, Any]:
    manifest = _with_attention(Path(job.out), prepared.manifest, attentions)
    finished = finish(Path(job.out), prepared, manifest, job.judge, job.compare_to)
    _refuse_failures(job, finished)
    return finished.metrics


def _with_attention(folder: Path, manifest: dict[str, Any], found: Sequence[dict[str, str]]) -> dict[str, Any]:
    """What only a loaded model tells; a run that finds every reply on disk keeps what an earlier one has seen."""
    seen = {name: how for own in found for name, how in own.items()}
    models = [{**model, "attention": seen.get(model["name"], model["attention"])} for model in manifest["models"]]
    manifest = {**manifest, "models": models}
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def _refuse_failures(job: Job, finished: Finished) -> None:
    failed = [one for one in (*finished.outcomes, *finished.described) if one.state == FAILED]
    lost = {(_first(one).path or _first(one).video, one.error) for one in failed}
    # A question is one, however many models and modes it failed with.
    count = len({_first(one).id for one in failed})
    if count > job.max_failures:
        named = sorted(f"{video}: {error}" if video not in error else error for video, error in lost)
        raise Ego2ExoError(
            f"{count} question(s) got no reply and count as wrong, all others are done: {shorten_list(named, 10)}",
            f"at most {job.max_failures} (--max-failures)",
            f"mend these videos and run the same command again, which asks about them alone (report: {job.out})",
        )


def _first(one: Any) -> Any:
    return one.item if hasattr(one, "item") else one.items[0]
