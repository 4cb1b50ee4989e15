"""Batches of clips, each with its questions: fixed beforehand, asked as a whole or not at all.

Neither an interruption nor the number of processes changes what goes through the model together, so neither changes an
answer by its rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any, Protocol, TypeVar

from ...errors import Ego2ExoError
from .clips import Seen


class Keyed(Protocol):
    """A question with the key of its answer."""

    @property
    def key(self) -> str: ...


class Task(Protocol):
    """A clip with its questions."""

    @property
    def questions(self) -> Sequence[Keyed]: ...


Some = TypeVar("Some", bound=Task)


def in_batches(tasks: Sequence[Some], size: int) -> list[tuple[Some, ...]]:
    """The tasks, `size` clips a batch."""
    return [tuple(tasks[start : start + size]) for start in range(0, len(tasks), size)]


def unfinished(batches: Sequence[tuple[Some, ...]], done: Container[str]) -> list[tuple[Some, ...]]:
    """The batches that lack an answer; each is to be asked again as a whole."""
    return [batch for batch in batches if any(is_open(task, done) for task in batch)]


def is_open(task: Task, done: Container[str]) -> bool:
    """Whether a clip lacks an answer."""
    return any(question.key not in done for question in task.questions)


def answered(
    batch: Sequence[Some], clips: Sequence[Seen | Ego2ExoError], done: Container[str],
    ask: Callable[[list[Some], list[Seen]], Sequence[Any]],
) -> list[Any]:  # fmt: skip
    """Answers to a whole batch, also to what is answered already: the rounding hangs on what goes together.

    Args:
        batch: the clips.
        clips: as they were read.
        done: keys of answers that are there.
        ask: (tasks, clips) of those that could be read -> answers of each, or an error.

    Returns:
        For each clip its answers, or why there are none; [] everywhere where no clip that was read lacks one.
    """
    good = [number for number, clip in enumerate(clips) if isinstance(clip, Seen)]
    results: list[Any] = [[] if number in good else clip for number, clip in enumerate(clips)]
    if any(is_open(batch[number], done) for number in good):
        found = ask([batch[number] for number in good], [clips[number] for number in good])  # type: ignore[misc]
        for number, one in zip(good, found, strict=True):
            results[number] = one
    return results
