"""Replace attributes of other people's modules and classes so that each can be put back exactly."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..errors import Ego2ExoError

# One object for good: what was replaced before a reload of this module is undone by its new functions.
_ABSENT = globals().get("_ABSENT") or object()


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


@dataclass(frozen=True)
class Change:
    """One replaced attribute.

    Args:
        owner: module, class or instance.
        name: the attribute's.
        own: what its own dictionary held; `_ABSENT` where it had inherited the attribute, or lacked it.
        value: what stands there instead.
    """

    owner: Any
    name: str
    own: Any
    value: Any

    @property
    def place(self) -> tuple[int, str]:
        return id(self.owner), self.name

    def undo(self) -> None:
        """Put the original back; a second time changes nothing."""
        if self.own is not _ABSENT:
            setattr(self.owner, self.name, self.own)
        else:
            with suppress(AttributeError):
                delattr(self.owner, self.name)


class Patchboard:
    """What was replaced, in order, with the originals."""

    def __init__(self) -> None:
        self._changes: list[Change] = []
        self._copied: list[tuple[Any, Any]] = []

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Put `make(original)` in the original's place; an inherited class attribute is shadowed, not moved."""
        own = vars(owner).get(name, _ABSENT)
        original = own if own is not _ABSENT else inspect.getattr_static(owner, name)
        value = make(original)
        if isinstance(owner, ModuleType):
            self._copied.append((value, original))
        self._put(Change(owner, name, own, value))

    def add(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute that the owner lacks."""
        self._put(Change(owner, name, _ABSENT, value))

    def _put(self, change: Change) -> None:
        # Noted first, so that an interruption between the two leaves nothing behind.
        self._changes.append(change)
        setattr(change.owner, change.name, change.value)

    def restore(self) -> None:
        """Undo everything, last first."""
        while self._changes:
            self._changes[-1].undo()
            self._changes.pop()

    def holds(self, owner: Any, name: str) -> bool:
        """Whether what stands in a place now is of this board."""
        return any(c.owner is owner and c.name == name and vars(owner).get(name) is c.value for c in self._changes)

    def strangers(self) -> list[str]:
        """Places of modules and classes where something else stands by now than was put there."""
        last = {change.place: change for change in self._changes}
        found = [c for c in last.values() if vars(c.owner).get(c.name, _ABSENT) is not c.value]
        return [f"{getattr(c.owner, '__qualname__', None) or c.owner.__name__}.{c.name}" for c in found]

    def forget_rebound(self, module: ModuleType) -> None:
        """A module was executed again: the names that it has bound anew hold its own objects, not ours."""
        rebound = {c.place for c in self._changes if c.owner is module and not self.holds(module, c.name)}
        self._changes[:] = [change for change in self._changes if change.place not in rebound]

    def take_back(self, modules: Iterable[ModuleType]) -> None:
        """Put originals where these modules hold ours, as `from ... import` takes what stands there at its time."""
        originals = {id(value): original for value, original in self._copied}
        for module in modules:
            for name, value in list(vars(module).items()):
                if id(value) in originals:
                    while id(value) in originals:
                        value = originals[id(value)]
                    setattr(module, name, value)


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
