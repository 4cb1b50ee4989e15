"""Processes that decode, as many as there are callers at a time; kept for the next call."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .worker import Worker

if TYPE_CHECKING:  # in `typing` from Python 3.11 on
    from typing_extensions import Self

_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """Workers of one module. Each is used by one caller at a time.

    Args:
        module: dotted name of what they run.
    """

    def __init__(self, module: str) -> None:
        self.module = module
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        _POOLS.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """One that nobody else uses: an idle one, or a new one."""
        with self._lock:
            worker = self._idle.pop() if self._idle else Worker(self.module)
        try:
            yield worker
        except BaseException:
            # What was asked may still be answered: to nobody.
            worker.stop()
            raise
        with self._lock:
            self._idle.append(worker)

    def stop(self) -> None:
        """End those that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.stop()

    def forget(self) -> None:
        """After a fork: the workers are the parent's, and its lock may be held by a thread that is not here."""
        self._lock = threading.Lock()
        idle, self._idle = self._idle, []
        for worker in idle:
            worker.forget()


@atexit.register
def _stop_all() -> None:
    for pool in list(_POOLS):
        pool.stop()


def _forget_all() -> None:
    for pool in list(_POOLS):
        pool.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
