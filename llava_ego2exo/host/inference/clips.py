"""Clips read and preprocessed on threads while the model works on those before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ...errors import Ego2ExoError
from ...video import read_video, time_instruction
from ...video.cache import Reader
from .settings import Settings


class Part(Protocol):
    """A video, or a part of it."""

    @property
    def path(self) -> str: ...

    @property
    def start_s(self) -> float | None: ...

    @property
    def end_s(self) -> float | None: ...


Task = TypeVar("Task")


@dataclass(frozen=True)
class Seen:
    """A clip as the model sees it.

    Args:
        pixels: (T, 3, H, W), preprocessed.
        preface: what is told before each query; empty for nothing.
    """

    pixels: Any
    preface: str


def read_clip(
    task: Part, settings: Settings, preprocess: Callable[[Any], Any], read: Reader | None = None
) -> Seen | Ego2ExoError:
    """One clip, or why it cannot be read.

    Args:
        task: the clip.
        settings: which frames of it.
        preprocess: (T, H, W, 3) uint8 -> (T, 3, H, W).
        read: what reads it; None: it is decoded, within the default limits.
    """
    try:
        clip = (read or read_video)(
            task.path, settings.video_fps, settings.frames_upbound, settings.force_sample, task.start_s, task.end_s
        )
    except Ego2ExoError as error:
        return error
    return Seen(preprocess(clip.frames), f"{time_instruction(clip)}\n" if settings.time_instruction else "")


def read_ahead(
    batches: Sequence[tuple[Task, ...]], read: Callable[[Task], Seen | Ego2ExoError], workers: int, ahead: int = 2
) -> Iterator[tuple[tuple[Task, ...], list[Seen | Ego2ExoError]]]:
    """Each batch with its clips, in order; at most `ahead` batches wait in memory.

    Args:
        batches: clips that go through the model together.
        read: called on `workers` threads.
        workers: threads.
        ahead: batches.
    """
    waiting: deque[tuple[tuple[Task, ...], list[Future[Seen | Ego2ExoError]]]] = deque()
    pool = ThreadPoolExecutor(max(workers, 1))
    try:
        left = iter(batches)
        while True:
            for batch in left:
                waiting.append((batch, [pool.submit(read, task) for task in batch]))
                if len(waiting) > ahead:
                    break
            if not waiting:
                return
            batch, futures = waiting.popleft()
            yield batch, [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
