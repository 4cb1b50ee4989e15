"""Ego-to-exo transfer for LLaVA: Ego Adaptive Visual Tokens and Ego2Exo Sequence Distillation.

Importing this package changes nothing and loads neither torch nor llava::

    import llava_ego2exo
    llava_ego2exo.register()          # hooks into whichever `llava` is installed
    llava_ego2exo.unregister()        # puts every original object back
    llava_ego2exo.ask("checkpoints/student", "kitchen.mp4", "What does the person do?", base="checkpoints/base")
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["Ego2ExoError", "ask", "register", "register_projector", "register_trainer", "unregister"]

from typing import Any

from .errors import Ego2ExoError
from .registry import register_projector, register_trainer


def register(*, fixes: str | None = None) -> None:
    """Hook into the installed `llava`; a second call changes nothing.

    Call it before or after `import llava`, but before code that takes a function of LLaVA's by name
    (``from llava.model.builder import load_pretrained_model``): such a name keeps what stood there at its time. Do
    not reload one of LLaVA's modules afterwards. It is not thread-safe.

    Args:
        fixes: which fixes of upstream faults to apply: ``"all"``, ``"none"``, or ``"all,-name,..."``.
            Unset: the environment variable ``LLAVA_EGO2EXO_FIXES``, else all.

    Raises:
        Ego2ExoError: no llava is installed, a place we hook into is not as expected (nothing is changed then), or
            `fixes` are given and other ones are in force.
    """
    from .host.hooks.install import register as register_host

    register_host(fixes=fixes)


def unregister() -> None:
    """Put every original object of `llava` back; without a prior `register` nothing happens.

    Raises:
        Ego2ExoError: other code has replaced one of the places since (nothing is changed then).
    """
    from .host.hooks.install import unregister as unregister_host

    unregister_host()


def __getattr__(name: str) -> Any:
    if name == "ask":  # imported when asked for: it needs torch
        from .host.inference.ask import ask

        return ask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
