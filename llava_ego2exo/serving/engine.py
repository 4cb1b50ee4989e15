"""Requests wait in a bounded queue; one thread takes those of one shape through the model together."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import Ego2ExoError

if TYPE_CHECKING:
    from ..host.inference.ask import VideoModel
    from ..host.inference.clip_jobs import PreparedClip
    from ..host.inference.steering import Row


logger = logging.getLogger(__name__)


class QueueFullError(Exception):
    """No request fits into the queue now; `seconds` is when to try again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full; try again in {seconds} s")
        self.seconds = seconds


class ClosingError(Exception):
    """The server ends, and answers no more."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down")


@dataclass(eq=False)
class Job:
    """One request for the model.

    Args:
        model: name of a served one.
        clip: what it is shown.
        prompt: text up to where the answer begins.
        row: how the answer is sampled and stopped; its pieces are reported from the engine's thread.
        done: called once, with None, what `call` gives, or what went wrong.
        call: what the engine's thread is to do with the model in the place of an answer.
    """

    model: str
    clip: PreparedClip
    prompt: str
    row: Row
    done: Callable[[Any], None]
    call: Callable[[VideoModel], Any] | None = None
    cancelled: bool = False
    since: float = field(default_factory=time.monotonic)

    @property
    def shape(self) -> tuple[Any, ...]:
        """Jobs of one shape can be one batch."""
        return self.model, self.call is None, tuple(self.clip.pixels.shape)


class Engine:
    """The queue and the thread.

    Args:
        models: name -> a loaded one.
        size: how many jobs may wait.
        batch: how many go together.
        timeout: seconds after which a job that still waits is given up.
        finished: called after each batch with its jobs and seconds.
    """

    def __init__(
        self, models: dict[str, VideoModel], size: int, batch: int, timeout: float,
        finished: Callable[[Sequence[Job], float], None] = lambda *_: None,
    ) -> None:  # fmt: skip
        self.models, self.size, self.batch, self.timeout, self.finished = models, size, batch, timeout, finished
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.seconds = 1.0  # of a batch, a moving mean
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Put a job into the queue.

        Raises:
            QueueFullError: there is no place.
            ClosingError: the server ends.
        """
        with self._changed:
            if self._closed:
                raise ClosingError
            if len(self.waiting) >= self.size:
                batches = math.ceil((len(self.waiting) + len(self.running)) / self.batch)
                raise QueueFullError(max(1, math.ceil(batches * self.seconds)))
            self.waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Nobody waits for this job: its place in the queue is free, and a running one ends with its next token."""
        with self._changed:
            job.cancelled = True
            if job in self.waiting:
                self.waiting.remove(job)

    def close(self, grace: float = 10.0) -> None:
        """End the thread. Jobs that wait get an error at once, those that run have `grace` seconds to end."""
        with self._changed:
            self._closed = True
            told = list(self.waiting)
            self.waiting.clear()
            self._changed.notify()
        for job in told:
            job.done(ClosingError())
        self._thread.join(grace)
        for job in self.running:
            job.cancelled = True
        self._thread.join(grace)

    def _take(self) -> list[Job]:
        """The oldest job and others of its shape, once there is one; none when the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self.waiting or self._closed)
            if self._closed:
                return []
            same = [job for job in self.waiting if job.shape == self.waiting[0].shape][: self.batch]
            for job in same:
                self.waiting.remove(job)
            self.running = same
        return same

    def _run(self) -> None:
        while jobs := self._take():
            started = time.monotonic()
            late = [job for job in jobs if started - job.since > self.timeout]
            for job in late:
                job.done(TimeoutError(f"the request waited for more than {self.timeout:g} s"))
            jobs = [job for job in jobs if job not in late and not job.cancelled]
            try:
                results = self._results(jobs) if jobs else []
            except Exception as error:  # of a library below: this batch fails, and the server keeps running
                logger.exception("a batch of %d failed", len(jobs))
                results = [error] * len(jobs)
            self.running = []
            for job, result in zip(jobs, results, strict=True):
                job.row.reason = "error" if isinstance(result, Exception) else job.row.reason
            if jobs:  # counted before the answers are set: whoever has an answer finds it in the metrics
                took = time.monotonic() - started
                self.seconds = 0.8 * self.seconds + 0.2 * took
                self.finished(jobs, took)
            for job, result in zip(jobs, results, strict=True):
                job.done(ClosingError() if self._closed and job.row.reason == "cancelled" else result)

    def _results(self, jobs: list[Job]) -> list[Any]:
        model = self.models[jobs[0].model]
        if jobs[0].call is not None:
            return [_called(job.call, model) for job in jobs]
        found = model.generate([job.clip for job in jobs], [job.prompt for job in jobs], [job.row for job in jobs])
        return [one if isinstance(one, Ego2ExoError) else None for one in found]


def _called(call: Any, model: VideoModel) -> Any:
    try:
        return call(model)
    except Ego2ExoError as error:
        return error
