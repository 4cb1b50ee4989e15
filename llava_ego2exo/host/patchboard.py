"""Replace attributes of other people's modules and classes so that each can be put back exactly."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..errors import Ego2ExoError

_ABSENT = object()


def resolve(module: Any, target: str) -> tuple[Any, str]:
    """The owner and last name of a dotted target inside a module.

    Raises:
        Ego2ExoError: a part of the path does not exist.
    """
    *parts, last = target.split(".")
    owner = module
    for part in parts:
        owner = getattr(owner, part, _ABSENT)
        if owner is _ABSENT:
            raise Ego2ExoError(f"the installed llava has no {module.__name__}.{target}")
    return owner, last


def parameters(value: Any) -> tuple[str, ...]:
    """Parameter names of a function, method object or class; empty where there is no signature."""
    function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()


class Patchboard:
    """What was replaced, in order, with the originals."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Put `make(original)` in the original's place; an inherited class attribute is shadowed, not moved."""
        own = vars(owner).get(name, _ABSENT)
        original = own if own is not _ABSENT else inspect.getattr_static(owner, name)
        replacement = make(original)
        setattr(owner, name, replacement)
        self._undo.append((owner, name, own))

    def add(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute that the owner lacks."""
        setattr(owner, name, value)
        self._undo.append((owner, name, _ABSENT))

    def restore(self) -> None:
        """Undo everything, last first."""
        while self._undo:
            owner, name, own = self._undo.pop()
            if own is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, own)


@contextmanager
def substituted(owner: Any, **values: Any) -> Iterator[None]:
    """Attributes of a module, class or instance replaced for the time of a `with` block, whatever happens in it."""
    board = Patchboard()
    with ExitStack() as stack:
        stack.callback(board.restore)
        for name, value in values.items():
            if hasattr(owner, name):
                board.replace(owner, name, functools.partial(lambda value, _: value, value))
            else:
                board.add(owner, name, value)
        yield
