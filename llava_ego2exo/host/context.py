"""What one training run knows that LLaVA does not hand down to every seam."""

from __future__ import annotations

from contextvars import ContextVar

from ..config import DistillConfig

SEED: ContextVar[int] = ContextVar("ego2exo_seed", default=42)
DISTILL: ContextVar[DistillConfig | None] = ContextVar("ego2exo_distill", default=None)
