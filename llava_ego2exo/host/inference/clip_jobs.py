"""Clips with questions through a model: read ahead, answered in fixed batches, stored by key, resumed.

`teach` and `eval` are both this, with records of their own. Batches are fixed beforehand and go through the model as a
whole, or not at all, so that neither an interruption nor the number of processes changes an answer by its rounding.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ...common.processes import Ranks, clip_bar
from ...common.record_store import RecordStore
from ...errors import Ego2ExoError
from ...video import Clip, read_video, time_instruction
from .settings import InferenceSettings

if TYPE_CHECKING:
    from ...video.cache import Reader
    from .answerer import Answerer


Q = TypeVar("Q")  # a question: the `text` that is asked, and the `key` of its answer


@dataclass(frozen=True)
class ClipTask(Generic[Q]):
    """One clip with its questions."""

    path: str
    start_s: float | None
    end_s: float | None
    video: str  # sha256 of the file
    questions: tuple[Q, ...]

    def is_pending(self, completed: Container[str]) -> bool:
        """Whether one of its questions has no answer yet."""
        return any(question.key not in completed for question in self.questions)


Batch = tuple[ClipTask[Q], ...]


def clip_batches(tasks: Sequence[ClipTask[Q]], size: int) -> list[Batch[Q]]:
    """The tasks, `size` clips a batch."""
    return [tuple(tasks[start : start + size]) for start in range(0, len(tasks), size)]


def pending(batches: Sequence[Batch[Q]], completed: Container[str]) -> list[Batch[Q]]:
    """The batches that lack an answer; each is asked again as a whole."""
    return [batch for batch in batches if any(task.is_pending(completed) for task in batch)]


@dataclass(frozen=True)
class PreparedClip:
    """A clip as the model sees it: (T, 3, H, W), and the text in front of its questions."""

    pixels: Any
    preface: str


def prepare_clip(
    task: ClipTask[Any], settings: InferenceSettings, preprocess: Callable[[Any], Any], read: Reader | None = None
) -> PreparedClip:
    """Read one clip, without `read` within the default limits, and preprocess it: (T, H, W, 3) -> (T, 3, H, W)."""
    clip = (read or read_video)(
        task.path, settings.video_fps, settings.frames_upbound, settings.force_sample, task.start_s, task.end_s
    )
    return PreparedClip(preprocess(clip.frames), preface_of(clip, settings))


def preface_of(clip: Clip, settings: InferenceSettings) -> str:
    """What stands in front of each question about a clip: its length and the times of its frames, or nothing."""
    return f"{time_instruction(clip)}\n" if settings.time_instruction else ""


def read_ahead(
    batches: Sequence[Batch[Q]], read: Callable[[ClipTask[Q]], PreparedClip], workers: int, ahead: int = 2
) -> Iterator[tuple[Batch[Q], list[PreparedClip | Ego2ExoError]]]:
    """Each batch with its clips, or why one cannot be read, in order.

    `read` is called on `workers` threads; at most `ahead` batches wait in memory.
    """

    def attempt(task: ClipTask[Q]) -> PreparedClip | Ego2ExoError:
        try:
            return read(task)
        except Ego2ExoError as error:
            return error

    waiting: deque[tuple[Batch[Q], list[Future[PreparedClip | Ego2ExoError]]]] = deque()
    pool = ThreadPoolExecutor(max(workers, 1))
    try:
        left = iter(batches)
        while True:
            for batch in left:
                waiting.append((batch, [pool.submit(attempt, task) for task in batch]))
                if len(waiting) > ahead:
                    break
            if not waiting:
                return
            batch, futures = waiting.popleft()
            yield batch, [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class ClipProgress:
    """What one process has done."""

    tokens: int = 0
    sizes: list[int] = field(default_factory=list)  # clips of each batch
    seconds: list[float] = field(default_factory=list)  # of each batch, with the wait for its clips
    failures: list[tuple[ClipTask[Any], str]] = field(default_factory=list)

    @property
    def clips(self) -> int:
        """Clips answered or failed."""
        return sum(self.sizes)

    def __str__(self) -> str:
        rate = self.tokens / max(sum(self.seconds), 1e-9)
        return f"{rate:.0f} tokens/s, {len(self.failures)} failed"


@dataclass(frozen=True)
class ClipJob(ABC, Generic[Q]):
    """What one process needs to answer its batches. A subclass defines its records."""

    answerer: Answerer
    settings: InferenceSettings
    store: RecordStore[Any]
    completed: Container[str]  # keys of the answers that are there
    workers: int  # threads that read clips
    read: Reader | None

    @abstractmethod
    def record(self, task: ClipTask[Q], question: Q, result: Any) -> Any:
        """The record of one answer."""

    def failure(self, question: Q, error: Ego2ExoError) -> Any:
        """The record of a question about a clip that failed; None: there is none."""
        return None

    def ask(self, clips: list[PreparedClip], questions: list[tuple[Q, ...]]) -> list[list[Any] | Ego2ExoError]:
        """For each clip one result a question, or why there is none."""
        texts = [[clip.preface + q.text for q in own] for clip, own in zip(clips, questions, strict=True)]
        return self.answerer.answer([clip.pixels for clip in clips], texts)

    def run(self, batches: Sequence[Batch[Q]], ranks: Ranks, title: str) -> ClipProgress:
        """Answer the batches of this process, and store each batch's records before the next."""
        prepare = partial(prepare_clip, settings=self.settings, preprocess=self.answerer.preprocess, read=self.read)
        progress = ClipProgress()
        with self.store.part(ranks.rank) as file, clip_bar(ranks, title, sum(map(len, batches))) as bar:
            began = time.perf_counter()
            for batch, clips in read_ahead(batches, prepare, self.workers):
                file.append(self._records(batch, self._results(batch, clips), progress))
                progress.sizes.append(len(batch))
                progress.seconds.append(time.perf_counter() - began)
                began = time.perf_counter()
                bar.update(len(batch))
                bar.set_postfix_str(str(progress))
        return progress

    def _results(self, batch: Batch[Q], clips: list[PreparedClip | Ego2ExoError]) -> list[list[Any] | Ego2ExoError]:
        """Of a whole batch, also of what is answered already; nothing where no clip that was read lacks an answer."""
        from .answerer import explain_oom

        results: list[list[Any] | Ego2ExoError] = [clip if isinstance(clip, Ego2ExoError) else [] for clip in clips]
        good = [number for number, clip in enumerate(clips) if isinstance(clip, PreparedClip)]
        if any(batch[number].is_pending(self.completed) for number in good):
            questions = [batch[number].questions for number in good]
            with explain_oom(len(good), sum(map(len, questions))):
                found = self.ask([clips[number] for number in good], questions)  # type: ignore[misc]
            for number, result in zip(good, found, strict=True):
                results[number] = result
        return results

    def _records(self, batch: Batch[Q], results: list[list[Any] | Ego2ExoError], progress: ClipProgress) -> list[Any]:
        records = []
        for task, found in zip(batch, results, strict=True):
            if isinstance(found, Ego2ExoError):
                missing = [question for question in task.questions if question.key not in self.completed]
                # A clip that was answered before and only went along in its batch has not failed.
                if missing:
                    progress.failures.append((task, found.given))
                    records += [self.failure(question, found) for question in missing]
                continue
            for question, result in zip(task.questions, found, strict=bool(found)):
                progress.tokens += len(getattr(result, "tokens", ()))
                if question.key not in self.completed:
                    records.append(self.record(task, question, result))
        return [record for record in records if record is not None]
