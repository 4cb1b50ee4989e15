"""Enter LLaVA at the places of the table and leave it again: all or nothing, and exactly as it was afterwards."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
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

    def in_place(self) -> bool:
        return vars(self.owner).get(self.name, _ABSENT) is self.value


class AttributePatcher:
    """Replaces attributes of modules, classes and instances, and can put every original back."""

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Put `make(original)` in the original's place; an inherited class attribute is shadowed, not moved."""
        own = vars(owner).get(name, _ABSENT)
        self._put(Change(owner, name, own, make(inspect.getattr_static(owner, name) if own is _ABSENT else own)))

    def add(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute that the owner lacks."""
        self._put(Change(owner, name, _ABSENT, value))

    def _put(self, change: Change) -> None:
        self.changes.append(change)  # first, so that an interruption between the two leaves nothing behind
        setattr(change.owner, change.name, change.value)

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
        return [f"{c.owner.__name__}.{c.name}" for c in last.values() if not c.in_place()]


@contextmanager
def substituted(owner: Any, **values: Any) -> Iterator[None]:
    """Attributes of a module, class or instance replaced inside a `with` block, and put back whatever happens in it."""
    patcher = AttributePatcher()
    try:
        for name, value in values.items():
            if hasattr(owner, name):
                patcher.replace(owner, name, lambda _, value=value: value)
            else:
                patcher.add(owner, name, value)
        yield
    finally:
        patcher.restore()


class Installation:
    """What one `register()` has replaced, or will replace once its module is imported: inference loads no trainer."""

    def __init__(self, flavour: str, fixes: frozenset[str]) -> None:
        self.fixes, self.active = fixes, True
        self.patcher = AttributePatcher()
        self.specs: dict[str, Any] = {}  # of each module when it was entered; a reload gives it another
        self.seams: dict[str, list[Seam]] = {}
        for seam in SEAMS:
            if flavour in seam.flavours and (seam.kind == "hook" or seam.key in fixes):
                self.seams.setdefault(seam.module, []).append(seam)

    def start(self) -> None:
        """Enter the modules that are imported, and wait for the others."""
        from wrapt import register_post_import_hook

        for name in self.seams:
            register_post_import_hook(self._enter, name)

    def enter_reloaded(self) -> None:
        """Enter the modules that were executed again since."""
        for name, spec in list(self.specs.items()):
            module = sys.modules.get(name)
            if module is not None and module.__spec__ is not spec:
                changes = self.patcher.changes
                changes[:] = [c for c in changes if c.owner is not module or c.in_place()]
                self._enter(module)

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
            self.specs[module.__name__] = module.__spec__
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
            self.patcher.add(module, name, value)

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
    global _installation
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
        _installation.enter_reloaded()
        return
    _import_llava()
    _installation = Installation(flavour, enabled)
    _installation.start()


def _import_llava() -> None:
    global _importing_llava
    _importing_llava = True
    try:
        importlib.import_module("llava")
    finally:
        _importing_llava = False


def unregister() -> None:
    """Leave the installed `llava` as it was; see :func:`llava_ego2exo.unregister`."""
    if _installation is None:
        return
    overwritten = _installation.patcher.overwritten()
    if overwritten:
        raise Ego2ExoError(
            f"cannot unregister: other code has replaced {', '.join(overwritten)} since register()",
            "the places as register() left them",
            "undo that replacement first; after a reload of the module, call register()",
        )
    _installation.stop()


def resolve(module: Any, target: str) -> tuple[Any, str]:
    """The owner and last name of a dotted target inside a module.

    Raises:
        Ego2ExoError: a part of the path does not exist.
    """
    *parts, last = target.split(".")
    try:
        return functools.reduce(getattr, parts, module), last
    except AttributeError as error:
        raise Ego2ExoError(f"the installed llava has no {module.__name__}.{target}") from error


def check(seam: Seam, module: ModuleType) -> None:
    """Refuse a seam whose original is not as its wrapper needs it.

    Raises:
        Ego2ExoError: with the seam's name.
    """
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
