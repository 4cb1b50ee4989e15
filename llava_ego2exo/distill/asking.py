"""Batches through the teacher, and its answers onto the disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Ego2ExoError
from ..runs.batches import answered, is_open
from ..runs.clips import Seen, read_ahead, read_clip
from ..runs.settings import Settings
from ..video.cache import Reader
from . import quality
from .answers import Answer, AnswerStore
from .plan import Task
from .top_k import TopK, save_top_k

if TYPE_CHECKING:
    from ..host.teacher import Said, Teacher


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
        from ..host.teacher import memory_told

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
