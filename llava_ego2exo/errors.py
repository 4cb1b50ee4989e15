"""The one exception type of the package, and the check for optional packages that raises it."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Ego2ExoError(ValueError):
    """Something the user gave cannot work.

    The message always says three things: what was given, what is allowed, and what to do.

    Args:
        given: what was found, with its value ("--ego2exo_num_tokens 0").
        allowed: what would have been accepted.
        remedy: what the user should do next.
    """

    def __init__(self, given: str, allowed: str = "", remedy: str = "") -> None:
        self.given, self.allowed, self.remedy = given, allowed, remedy
        parts = [given.rstrip(".")]
        if allowed:
            parts.append(f"Allowed: {allowed.rstrip('.')}")
        if remedy:
            parts.append(f"What to do: {remedy.rstrip('.')}")
        super().__init__(". ".join(parts) + ".")


def refuse(*cases: tuple[object, str, str, str]) -> None:
    """Raise for the first case that holds.

    Args:
        cases: whether it holds, and the error's `given`, `allowed` and `remedy`.

    Raises:
        Ego2ExoError: one holds.
    """
    for holds, given, allowed, remedy in cases:
        if holds:
            raise Ego2ExoError(given, allowed, remedy)


def require_package(module: str, extra: str) -> Any:
    """An optional package as a module; to be called before a long run that needs it.

    Args:
        module: its name, as it is imported.
        extra: of this package, that installs it.

    Raises:
        Ego2ExoError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise Ego2ExoError(
            f"{module} is not installed ({error})", remedy=f"pip install 'llava-ego2exo[{extra}]'"
        ) from error
