"""Benchmarks: read, asked, scored and shown.

From Python: ``evaluate(EvalJob("ego-in-exo", data, videos, out, (EvalModel("base", "checkpoint"),)))``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "EvalJob": "job", "EvalModel": "job", "evaluate": "run", "rescore": "results", "parse_answer": "replies.parser",
    "read_benchmark": "benchmarks.registry",
}  # fmt: skip
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    # Imported when asked for: reading a reply needs none of what a run needs.
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
