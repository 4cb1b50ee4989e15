"""Enter LLaVA at the places of the table and leave it again: all or nothing, and exactly as it was afterwards."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ...errors import Ego2ExoError
from .flavour import detect
from .table import FIXES_VARIABLE, SEAMS, Seam, enabled_fixes

_ABSENT = object()


@dataclass(frozen=True)
class Change:
    """One replaced attribute of a module, class or instance."""

    owner: Any
    name: str
    own: Any  # what the owner's dictionary held; `_ABSENT` where it had inherited the attribute, or lacked it
    value: Any


class AttributePatcher:
    """Replaces attributes of modules, classes and instances, and can put every original back.

    An inherited attribute of a class is shadowed, not moved.
    """

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute, whether the owner has it or not."""
        # Noted first, so that an interruption between the two leaves nothing behind.
        self.changes.append(Change(owner, name, vars(owner).get(name, _ABSENT), value))
        setattr(owner, name, value)

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Put `make(original)` in the original's place."""
        self.put(owner, name, make(inspect.getattr_static(owner, name)))

    def restore(self) -> None:
        """Undo everything, last first."""
        while self.changes:
            change = self.changes.pop()
            if change.own is not _ABSENT:
                setattr(change.owner, change.name, change.own)
            elif change.name in vars(change.owner):
                delattr(change.owner, change.name)

    def overwritten(self) -> list[str]:
        """Places where other code has put something else since."""
        last = {(id(change.owner), change.name): change for change in self.changes}
        lost = [change for change in last.values() if vars(change.owner).get(change.name) is not change.value]
        return [f"{change.owner.__name__}.{change.name}" for change in lost]


@contextmanager
def substituted(owner: Any, **values: Any) -> Iterator[None]:
    """Attributes of a module, class or instance replaced inside a `with` block, and put back whatever happens in it."""
    patcher = AttributePatcher()
    try:
        for name, value in values.items():
            patcher.put(owner, name, value)
        yield
    finally:
        patcher.restore()


class Installation:
    """What one `register()` has replaced, or will replace once its module is imported: inference loads no trainer."""

    def __init__(self, flavour: str, fixes: frozenset[str]) -> None:
        self.fixes, self.active = fixes, True
        self.patcher = AttributePatcher()
        self.seams: dict[str, list[Seam]] = {}
        for seam in SEAMS:
            if flavour in seam.flavours and (seam.kind == "hook" or seam.key in fixes):
                self.seams.setdefault(seam.module, []).append(seam)

    def start(self) -> None:
        """Enter the modules that are imported, and wait for the others."""
        from wrapt import register_post_import_hook

        for name in self.seams:
            register_post_import_hook(self._enter, name)

    def _enter(self, module: ModuleType) -> None:
        """Check every seam of a module, then replace; one surprise puts everything back."""
        if not self.active:
            return  # wrapt's hooks cannot be taken back
        try:
            seams = self.seams[module.__name__]
            for seam in seams:
                check(seam, module)
            for seam in seams:
                self._replace(seam, module)
        except BaseException:
            self.stop()
            raise

    def _replace(self, seam: Seam, module: ModuleType) -> None:
        file, function = seam.wrap.split(":")
        wrap = getattr(importlib.import_module(f"{__package__.rpartition('.')[0]}.{file}"), function)
        if seam.target:
            self.patcher.replace(*resolve(module, seam.target), wrap)
            return
        for name, value in wrap(module).items():
            self.patcher.put(module, name, value)

    def stop(self) -> None:
        """Put everything back."""
        global _installation
        self.active = False
        self.patcher.restore()
        _installation = None


_installation: Installation | None = None
_importing_llava = False


def register(fixes: str | None = None) -> None:
    """Enter the installed `llava`; see :func:`llava_ego2exo.register`."""
    global _installation, _importing_llava
    if _importing_llava:
        return  # a patched llava registers while the call below imports it
    flavour, enabled = detect(), enabled_fixes(fixes)
    if _installation is not None:
        if fixes is not None and enabled != _installation.fixes:
            raise Ego2ExoError(
                f"register(fixes={fixes!r}) after a register() with the fixes {', '.join(sorted(_installation.fixes))}",
                "the same fixes, or none given",
                "call unregister() first, or register(fixes=...) before anything else registers",
            )
        return
    _importing_llava = True
    try:
        importlib.import_module("llava")
    finally:
        _importing_llava = False
    _installation = Installation(flavour, enabled)
    _installation.start()


def unregister() -> None:
    """Leave the installed `llava` as it was; see :func:`llava_ego2exo.unregister`."""
    if _installation is None:
        return
    overwritten = _installation.patcher.overwritten()
    if overwritten:
        raise Ego2ExoError(
            f"cannot unregister: other code has replaced {', '.join(overwritten)} since register()",
            "the places as register() left them",
            "undo that replacement first",
        )
    _installation.stop()


def resolve(module: Any, target: str) -> tuple[Any, str]:
    """The owner and last name of a dotted target inside a module."""
    *parts, last = target.split(".")
    try:
        return functools.reduce(getattr, parts, module), last
    except AttributeError as error:
        raise Ego2ExoError(f"the installed llava has no {module.__name__}.{target}") from error


def check(seam: Seam, module: ModuleType) -> None:
    """Refuse, by name, a seam whose original is not as its wrapper needs it."""
    if not seam.target:
        return
    value = inspect.getattr_static(*resolve(module, seam.target), None)
    missing = [param for param in seam.params if param not in _parameters(value)]
    if value is None or missing:
        found = f"lacks the parameters {', '.join(missing)}" if value is not None else "does not exist"
        optional = f", or switch the fix off with {FIXES_VARIABLE}=all,-{seam.key}" if seam.kind == "fix" else ""
        raise Ego2ExoError(
            f"seam {seam.key}: {seam.module}.{seam.target} {found}",
            "LLaVA-NeXT df17966 or llava-torch 1.2.2",
            f"install one of these{optional}",
        )


def _parameters(value: Any) -> tuple[str, ...]:
    """Parameter names of a function, method object or class; empty where there is no signature."""
    try:
        return tuple(inspect.signature(getattr(value, "__func__", value)).parameters)
    except (TypeError, ValueError):
        return ()
