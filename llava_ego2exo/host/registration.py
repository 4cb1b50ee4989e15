"""What one `register()` has replaced in LLaVA, module by module as they are imported, and its undoing."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from ..errors import Ego2ExoError
from .importing import AfterImport, half_imported, wait_for_import
from .patchboard import Patchboard, parameters, resolve

if TYPE_CHECKING:
    from .seams import Seam

# Held while attributes are exchanged. Never wait for an import of LLaVA's with it: that import may wait for this lock.
LOCK = globals().get("LOCK") or threading.RLock()


class Registration:
    """Seams that are hooked, or will be as soon as their module has run.

    Args:
        seams: to enter.
        mends: keys of the mends among them.
    """

    def __init__(self, seams: Sequence[Seam], mends: frozenset[str]) -> None:
        self.mends, self.ended = mends, False
        self.board, self.entered = Patchboard(), dict[str, ModuleType]()
        self.groups: dict[str, list[Seam]] = {}
        for seam in seams:
            self.groups.setdefault(seam.module, []).append(seam)
        self.finder = AfterImport({name: functools.partial(self.enter, name) for name in self.groups}, self)

    def settle(self, first: bool) -> None:
        """Enter what is imported already, once other threads have done with importing it.

        Args:
            first: this call began the registration. Another one leaves what its own thread is importing to that.

        Raises:
            Ego2ExoError: a seam is not as expected, or its module is being imported by this very thread; all is put
                back then.
        """
        try:
            for name in self.groups:
                wait_for_import(name)
            for name in self.groups:
                module = sys.modules.get(name)
                if module is None or self.entered.get(name) is module:
                    continue
                if not half_imported(module):
                    self.enter(name, module, again=False)
                elif first and not self.finder.calls_back(module):
                    raise Ego2ExoError(
                        f"register() was called while {name} was being imported, by code that this import runs",
                        "a call before the import or behind it",
                        f"move the call before the first import of {name}",
                    )
        except BaseException:
            self.stop()
            raise

    def enter(self, name: str, module: ModuleType, again: bool = True) -> None:
        """Check every seam of a module, then replace; a surprise in one leaves all as they were.

        Args:
            name: the module's.
            module: it has run.
            again: it has just run, perhaps not for the first time.
        """
        with LOCK:
            if self.ended or (not again and self.entered.get(name) is module):
                return
            try:
                self.board.forget_rebound(module)
                seams = [seam for seam in self.groups[name] if not self._stands(seam, module)]
                for seam in seams:
                    check(seam, module)
                for seam in seams:
                    self.replace(seam, module)
                self.entered[name] = module
            except BaseException:
                self.stop()
                raise

    def _stands(self, seam: Seam, module: ModuleType) -> bool:
        """Whether a module that ran again has left what we put there."""
        return bool(seam.target) and self.board.holds(*resolve(module, seam.target))

    def replace(self, seam: Seam, module: ModuleType) -> None:
        """Put a seam's replacement in its place."""
        file, function = seam.wrap.split(":")
        wrap = getattr(importlib.import_module(f"{__package__}.{file}"), function)
        if not seam.target:
            for name, value in wrap(module).items():
                self.board.add(module, name, value)
            return
        owner, name = resolve(module, seam.target)
        self.board.replace(owner, name, wrap)

    def require_own(self) -> None:
        """Refuse to undo what somebody else has built upon.

        Raises:
            Ego2ExoError: something else stands in a seam's place by now; undoing ours would undo it without a word.
        """
        found = self.board.strangers()
        if found:
            raise Ego2ExoError(
                f"cannot unregister: since register() something else was put in the place of {', '.join(found)}",
                "the places as register() left them",
                "undo that replacement first; where a reload of the module failed, reload it whole",
            )

    def stop(self) -> None:
        """Put everything back."""
        from ..registry import TRAINERS

        with LOCK:
            self.ended = True
            self.finder.remove()
            self.board.restore()
            hosts = [module for name, module in list(sys.modules.items()) if name.split(".")[0] == "llava"]
            self.board.take_back(hosts)
            if "ego2exo" in TRAINERS:
                TRAINERS.remove("ego2exo")


def standing() -> Registration | None:
    """The registration in force, by whichever copy of this package: a reload makes modules anew, not what they did."""
    for finder in sys.meta_path:
        if type(finder).__name__ == "AfterImport" and isinstance(getattr(finder, "callbacks", None), dict):
            return getattr(finder, "owner", None)
    return None


def check(seam: Seam, module: ModuleType) -> None:
    """Refuse a seam whose original is not as its wrapper needs it.

    Raises:
        Ego2ExoError: with the seam's name.
    """
    if not seam.target:
        return
    owner, name = resolve(module, seam.target)
    value = inspect.getattr_static(owner, name, None)
    missing = [param for param in seam.params if param not in parameters(value)]
    if value is None or missing:
        found = f"lacks the parameters {', '.join(missing)}" if value is not None else "does not exist"
        raise Ego2ExoError(
            f"seam {seam.key}: {seam.module}.{seam.target} {found}",
            "LLaVA-NeXT df17966 or llava-torch 1.2.2",
            f"install one of these, or switch the mend off with LLAVA_EGO2EXO_MENDS=all,-{seam.key}"
            if seam.kind == "mend"
            else "install one of these",
        )
