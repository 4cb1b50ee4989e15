"""Batches of clips through a model, and its replies onto the disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import Ego2ExoError
from ..runs.batches import answered
from ..runs.clips import Seen, read_ahead, read_clip
from ..video.cache import Reader
from .outcomes import LIKELIHOOD
from .plan import Clip, Question
from .preparing import Asked
from .replies import Reply, ReplyStore

if TYPE_CHECKING:
    from ..host.teacher import Said, Teacher


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
        from ..host.teacher import memory_told

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
    from ..host import letters

    asked = [
        [letters.Asked(preface + question.text, question.options) for question in own]
        for preface, own in zip(prefaces, questions, strict=True)
    ]
    return letters.letter_scores(teacher, pixels, asked)


def _reply(question: Question, found: Said | dict[str, float]) -> Reply:
    if isinstance(found, dict):
        return Reply(question.id, question.key, scores=found)
    flags = (() if found.text else ("empty",)) + (() if found.ended else ("cut",))
    return Reply(question.id, question.key, found.text, flags=flags, tokens=len(found.tokens))
