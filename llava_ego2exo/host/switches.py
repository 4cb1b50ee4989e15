"""Ego tokens switched off for the time of a block: for the self-teacher, and to see whether a student uses them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_OFF: ContextVar[bool] = ContextVar("ego2exo_tokens_off", default=False)


def tokens_are_off() -> bool:
    """Whether the running block has switched ego tokens off."""
    return _OFF.get()


@contextmanager
def tokens_off() -> Iterator[None]:
    """Inside the block every model gets its input as plain LLaVA makes it: the ordinary visual tokens alone."""
    token = _OFF.set(True)
    try:
        yield
    finally:
        _OFF.reset(token)
