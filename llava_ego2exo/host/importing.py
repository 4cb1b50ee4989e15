"""Run a callback right after a module is executed, whoever imports it and whenever."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib import _bootstrap  # type: ignore[attr-defined]
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class AfterImport(MetaPathFinder):
    """A finder that finds nothing itself: it asks the others and calls back once their module has run.

    LLaVA's train module imports deepspeed and the vendored trl; waiting for the user's own import keeps
    `import llava` as fast as it was and inference free of training packages. A reload passes here too.

    Args:
        callbacks: module name -> function of the executed module; an exception in it fails the import.
        owner: whose finder it is.
    """

    def __init__(self, callbacks: dict[str, Callable[[ModuleType], None]], owner: Any = None) -> None:
        self.callbacks, self.owner = callbacks, owner
        self._hooked: dict[str, ModuleSpec] = {}

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:  # type: ignore[no-untyped-def]
        if fullname not in self.callbacks:
            return None
        for finder in list(sys.meta_path):
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self._hook(spec, self.callbacks[fullname])
                self._hooked[fullname] = spec
                return spec
        return None

    @staticmethod
    def _hook(spec: ModuleSpec, callback: Callable[[ModuleType], None]) -> None:
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)  # the module keeps its loader: leave it as it was
            execute(module)
            callback(module)

        loader.exec_module = exec_module

    def calls_back(self, module: ModuleType) -> bool:
        """Whether a module that is being imported will call back when it has run."""
        return module.__spec__ is not None and self._hooked.get(module.__name__) is module.__spec__

    def install(self) -> None:
        """Call back for what is imported from now on."""
        sys.meta_path.insert(0, self)

    def remove(self) -> None:
        """Call back no more."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)


def half_imported(module: ModuleType) -> bool:
    """Whether a module's code is still running, in whichever thread."""
    return bool(getattr(module.__spec__, "_initializing", False))


def wait_for_import(name: str) -> None:
    """Wait until no other thread is importing a module; an import of this very thread is not waited for.

    Where a thread has found a module's file but not yet begun to run it, only importlib's own lock tells.
    """
    wait = getattr(_bootstrap, "_lock_unlock_module", None)
    if wait is not None:
        wait(name)
    elif name in sys.modules and half_imported(sys.modules[name]):
        importlib.import_module(name)
