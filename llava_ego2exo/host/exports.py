"""Mend: LLaVA-NeXT's Gemma and Qwen-MoE classes are used in train and loader, but never imported there."""

from __future__ import annotations

import importlib
from typing import Any

_CLASSES = {"llava_gemma": "LlavaGemmaForCausalLM", "llava_qwen_moe": "LlavaQwenMoeForCausalLM"}


def missing_classes(host: Any) -> dict[str, Any]:
    """Classes that the host module names but does not have; a transformers without the model leaves it out."""
    found = {}
    for module, name in _CLASSES.items():
        if not hasattr(host, name):
            try:
                found[name] = getattr(importlib.import_module(f"llava.model.language_model.{module}"), name)
            except ImportError:
                continue
    return found
