"""`initialize_vision_modules`: where a model in training gets its tower and projector, and ours its ego branch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from ..config import PREFIX, Ego2ExoConfig, base_type, other_settings
from . import llava_arch
from .context import SEED
from .projector import CHILD, attach, build_branch, ego_branch, store, stored_facts
from .safe_load import only_weights
from .vision import inspect_tower


def wrap_initialize(original: Callable[..., None]) -> Callable[..., None]:
    """LLaVA's own initialisation first, on the ordinary projector type; then the ego branch; then adapter files."""

    @functools.wraps(original)
    def initialize_vision_modules(self: Any, model_args: Any, fsdp: Any = None) -> None:
        asked = getattr(model_args, "ego2exo", False) or getattr(self.config, "ego2exo", False)
        if not asked and not str(model_args.mm_projector_type).startswith(PREFIX):
            return original(self, model_args, fsdp)
        adapter, model_args.pretrain_mm_mlp_adapter = model_args.pretrain_mm_mlp_adapter, None
        model_args.mm_projector_type = base_type(model_args.mm_projector_type)
        original(self, model_args, fsdp)
        _ensure_branch(self, model_args)
        if adapter is not None:
            _load_adapter(self, model_args, fsdp, adapter, original)
        self.config.mm_projector_type = PREFIX + base_type(model_args.mm_projector_type)
        for parameter in self.mm_projector.parameters():
            parameter.requires_grad_(True)
        return None

    return initialize_vision_modules


def _ensure_branch(model: Any, model_args: Any) -> None:
    """Attach a fresh branch, or check that the checkpoint's own fits the flags and the tower."""
    facts = inspect_tower(model.get_vision_tower())
    trained = getattr(model.config, "ego2exo", False)
    # Without --ego2exo an ego checkpoint goes on as it is.
    flags = Ego2ExoConfig.from_object(
        model_args if getattr(model_args, "ego2exo", False) or not trained else model.config
    )
    if ego_branch(model.mm_projector) is None:
        reference = next(model.mm_projector.parameters(), torch.empty(0))
        config = model.config
        branch = build_branch(llava_arch.original_projector_builder(), config, flags, facts)
        branch.reset_parameters(SEED.get())
        attach(model.mm_projector, branch.to(reference.device, reference.dtype))
    else:
        _check_same(Ego2ExoConfig.from_object(model.config), flags, stored_facts(model.config), facts)
        _apply_free(model, flags)
    store(model.config, flags, facts)


def _check_same(trained: Ego2ExoConfig, asked: Ego2ExoConfig, trained_on: Any, found: Any) -> None:
    lines = trained.differences(asked)
    if trained_on != found:
        lines.append(f"vision encoder: {trained_on} / {found}")
    if lines:
        raise other_settings(lines)


def _apply_free(model: Any, flags: Ego2ExoConfig) -> None:
    """Settings that do not shape weights follow the flags also on an existing branch."""
    ego_branch(model.mm_projector).reader.set_attn(flags.attn)  # type: ignore[union-attr]


def _load_adapter(model: Any, model_args: Any, fsdp: Any, path: str, original: Callable[..., None]) -> None:
    """Let LLaVA load a projector file into the extended projector; a stock file may lack our keys, all or none."""

    def allow_stock(_module: Any, incompatible: Any) -> None:
        ours = [key for key in incompatible.missing_keys if key.startswith(CHILD + ".")]
        total = sum(key.startswith(CHILD + ".") for key in model.mm_projector.state_dict())
        if len(ours) == total:
            for key in ours:
                incompatible.missing_keys.remove(key)

    handle = model.mm_projector.register_load_state_dict_post_hook(allow_stock)
    model_args.pretrain_mm_mlp_adapter = path
    try:
        with only_weights():
            original(model, model_args, fsdp)
    finally:
        handle.remove()
