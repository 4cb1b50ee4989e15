"""Fixes of upstream faults in training: each turns a crash or a silent loss into what was meant, and nothing else."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

import torch

from ...errors import Ego2ExoError
from ..checkpoint.adapter import exact_adapter, require_weights
from ..checkpoint.files import LORA_EXTRAS, PROJECTOR, read_tensors
from ..checkpoint.safety import only_weights
from ..checkpoint.vocabulary import ADDED_ROWS, put_rows
from ..hooks.install import substituted


def training_loop(original: Callable[..., Any]) -> Callable[..., Any]:
    """LLaVA-NeXT's copied loop misses some thirty names and dies at step 0; transformers' own is what it copied."""
    from transformers import Trainer

    @functools.wraps(original)
    def _inner_training_loop(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self, "trainer_mode", "regular") == "zo":
            return original(self, *args, **kwargs)  # zeroth-order training exists in that loop alone
        return Trainer._inner_training_loop(self, *args, **kwargs)

    return _inner_training_loop


def accelerator(original: Callable[..., Any]) -> Callable[..., Any]:
    """LLaVA-NeXT passes `dispatch_batches`, which accelerate >= 1.0 refuses; transformers passes what it knows."""
    from accelerate import Accelerator
    from transformers import Trainer

    if "dispatch_batches" in inspect.signature(Accelerator.__init__).parameters:
        return original

    @functools.wraps(original)
    def create_accelerator_and_postprocess(self: Any) -> None:
        Trainer.create_accelerator_and_postprocess(self)

    return create_accelerator_and_postprocess


def operations(original: Callable[..., Any]) -> Callable[..., Any]:
    """transformers <= 4.40 cannot count a quantized model's parameters without CUDA; the count is only logged."""

    @functools.wraps(original)
    def floating_point_ops(self: Any, inputs: Any) -> Any:
        try:
            return original(self, inputs)
        except ValueError:
            return 0

    return floating_point_ops


def random_state(original: Callable[..., Any]) -> Callable[..., Any]:
    """torch >= 2.6 refuses the numpy state in transformers' rng_state.pth; numpy's own types are let through."""

    @functools.wraps(original)
    def _load_rng_state(self: Any, checkpoint: Any) -> Any:
        import numpy as np

        safe = getattr(torch.serialization, "safe_globals", None)
        rebuild = np.zeros(0).__reduce__()[0]  # numpy has moved it between versions
        types = [rebuild, np.ndarray, np.dtype, type(np.dtype(np.uint32))]
        with safe(types) if safe else contextlib.nullcontext():
            return original(self, checkpoint)

    return _load_rng_state


def adapter_only(args: Any) -> bool:
    """Whether LLaVA saves the projector alone for this run."""
    if getattr(args, "lora_enable", False):
        return False
    parts = (getattr(args, "mm_tunable_parts", None) or "").split(",")
    alone = len(parts) == 1 and parts[0] in ("mm_mlp_adapter", "mm_vision_resampler")
    return bool(getattr(args, "tune_mm_mlp_adapter", False)) or alone


def save_checkpoint(original: Callable[..., Any]) -> Callable[..., Any]:
    """A LoRA `checkpoint-N` lacks projector and config, a projector's lacks optimizer and state; save them too."""
    from transformers import Trainer

    @functools.wraps(original)
    def _save_checkpoint(self: Any, model: Any, trial: Any, metrics: Any = None) -> Any:
        folder = os.path.join(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
        if adapter_only(self.args):
            os.makedirs(folder, exist_ok=True)
            Trainer._save_checkpoint(self, model, trial, metrics)  # state alone: LLaVA's own _save writes no weights
        result = original(self, model, trial, metrics)
        if getattr(self.args, "lora_enable", False):
            _save_extras(self, folder)
        return result

    return _save_checkpoint


def _save_extras(trainer: Any, folder: str) -> None:
    """Write what trains beside LoRA, and the config, as LLaVA does at the end of a run."""
    from llava.train.train import get_peft_state_non_lora_maybe_zero_3 as gather

    weights = gather(trainer.model.named_parameters())
    if trainer.args.should_save:
        unfinished = os.path.join(folder, LORA_EXTRAS + ".part")
        torch.save(weights, unfinished)
        os.replace(unfinished, os.path.join(folder, LORA_EXTRAS))
        trainer.model.config.save_pretrained(folder)


def load_checkpoint(original: Callable[..., Any]) -> Callable[..., Any]:
    """Resume with projector and ego tokens: transformers restores the LoRA adapter alone."""

    @functools.wraps(original)
    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> Any:
        target = self.model if model is None else model
        with only_weights():
            if adapter_only(self.args):
                return _restore(target, os.path.join(resume_from_checkpoint, PROJECTOR), adapter=False)
            with exact_adapter(resume_from_checkpoint):
                result = original(self, resume_from_checkpoint, model)
            if getattr(self.args, "lora_enable", False):
                _restore(target, os.path.join(resume_from_checkpoint, LORA_EXTRAS), adapter=True)
        return result

    return _load_from_checkpoint


def _restore(model: Any, file: str, adapter: bool) -> None:
    """Load what was saved beside an adapter, or a projector alone: all of what trains."""
    if not os.path.isfile(file):
        raise Ego2ExoError(
            f"{os.path.dirname(file)} cannot be resumed: it has no {os.path.basename(file)}",
            "a checkpoint written with this plugin",
            "remove it to start anew, or resume from another",
        )
    weights, known = read_tensors(file), dict(model.named_parameters())
    put_rows(known, {name: weights.pop(name) for name in list(weights) if name.endswith(ADDED_ROWS)}, file)
    trained = {name: value for name, value in known.items() if value.requires_grad and "lora_" not in name}
    required = trained if adapter else {name: value for name, value in known.items() if "mm_projector" in name}
    require_weights(weights, required, known, f"{file}: weights", "this run's model")
    model.load_state_dict(weights, strict=False)


def lora_targets(original: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """LLaVA names LoRA targets by their last part, which matches the tower's q_proj and k_proj too: name them whole."""

    @functools.wraps(original)
    def find_all_linear_names(model: Any) -> list[str]:
        names = original(model)
        parts = ("mm_projector", "vision_tower", "vision_resampler")
        matched = {name: module for name, module in model.named_modules() if name.split(".")[-1] in names}
        meant = [name for name in matched if not any(part in name for part in parts)]
        if len(meant) == len(matched):
            return names
        return [name for name in meant if isinstance(matched[name], torch.nn.Linear)]

    return find_all_linear_names


def save_model(original: Callable[..., None]) -> Callable[..., None]:
    """Saving a full or projector run calls torch.cuda.synchronize(), which fails without CUDA."""

    @functools.wraps(original)
    def safe_save_model_for_hf_trainer(trainer: Any, output_dir: str) -> None:
        if torch.cuda.is_available():
            return original(trainer=trainer, output_dir=output_dir)
        with substituted(torch.cuda, synchronize=lambda *_: None):
            return original(trainer=trainer, output_dir=output_dir)

    return safe_save_model_for_hf_trainer
