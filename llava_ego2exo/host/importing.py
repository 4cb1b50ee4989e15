"""Run a callback right after a module is executed, whoever imports it and whenever."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class AfterImport(MetaPathFinder):
    """A finder that finds nothing itself: it asks the others and calls back once their module has run.

    LLaVA's train module imports deepspeed and the vendored trl; waiting for the user's own import keeps
    `import llava` as fast as it was and inference free of training packages.

    Args:
        callbacks: module name -> function of the executed module; an exception in it fails the import.
    """

    def __init__(self, callbacks: dict[str, Callable[[ModuleType], None]]) -> None:
        self.callbacks = callbacks

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:  # type: ignore[no-untyped-def]
        if fullname not in self.callbacks:
            return None
        for finder in list(sys.meta_path):
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self._hook(spec, self.callbacks[fullname])
                return spec
        return None

    @staticmethod
    def _hook(spec: ModuleSpec, callback: Callable[[ModuleType], None]) -> None:
        execute = spec.loader.exec_module  # type: ignore[union-attr]

        def exec_module(module: ModuleType) -> None:
            execute(module)
            callback(module)

        spec.loader.exec_module = exec_module  # type: ignore[union-attr, method-assign]

    def install(self) -> None:
        """Call back at once for what is imported already, later for the rest."""
        for name, callback in self.callbacks.items():
            if name in sys.modules:
                callback(sys.modules[name])
        sys.meta_path.insert(0, self)

    def remove(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
