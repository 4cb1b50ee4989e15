"""What one training run knows that LLaVA does not hand down to every seam."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from ...config import DistillConfig


@dataclass
class Run:
    """One call of LLaVA's `train()` with ego tokens.

    Args:
        signature: what makes it this run, see :func:`~..resume.signature.run_signature`.
        trainer: the one that it trains with, once it is made.
    """

    signature: dict[str, Any] = field(default_factory=dict)
    trainer: Any = None


SEED: ContextVar[int] = ContextVar("ego2exo_seed", default=42)
DISTILL: ContextVar[DistillConfig | None] = ContextVar("ego2exo_distill", default=None)
RUN: ContextVar[Run | None] = ContextVar("ego2exo_run", default=None)
