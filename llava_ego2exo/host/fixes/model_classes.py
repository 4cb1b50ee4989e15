"""Fixes of LLaVA's model classes: `modalities`, quantization, attention, and classes that are never imported.

LLaVA-NeXT passes for each entry of `images` whether it is a video; its Mistral and Gemma classes and all of
llava-torch lack that argument, so they crash on LLaVA-NeXT's own collator or never see a video.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from ...errors import Ego2ExoError
from .towers import prepare_tower

# Not quantized: what trains or must stay exact. lm_head too, as its rounding hits every token.
SKIPPED = ("mm_projector", "vision_tower", "vision_resampler", "lm_head")
_UNIMPORTED = {"llava_gemma": "LlavaGemmaForCausalLM", "llava_qwen_moe": "LlavaQwenMoeForCausalLM"}
_STASH: ContextVar[list[str] | None] = ContextVar("ego2exo_modalities", default=None)


def stashed_modalities() -> list[str] | None:
    """What the running `forward` or `generate` was given as `modalities`, where its own code cannot carry it."""
    return _STASH.get()


def bind(
    signature: inspect.Signature, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> inspect.BoundArguments:
    """Arguments of the input preparation by name, defaults filled in."""
    bound = signature.bind(model, *args, **kwargs)
    bound.apply_defaults()
    return bound


def wrap_model_method(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let a LLaVA class's `forward` or `generate` accept `modalities`, and `forward` what transformers passes it."""
    known = inspect.signature(original).parameters
    is_forward = original.__name__ == "forward"

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_forward and "cache_position" not in known:
            # transformers >= 4.38 always passes it; these models derive it from the cache themselves.
            kwargs.pop("cache_position", None)
        if is_forward and "output_router_logits" not in known and kwargs.get("output_router_logits") is False:
            del kwargs["output_router_logits"]  # Mixtral's generate always passes it
        if "modalities" in known or "modalities" not in kwargs:
            return original(self, *args, **kwargs)
        token = _STASH.set(kwargs.pop("modalities"))
        try:
            return original(self, *args, **kwargs)
        finally:
            _STASH.reset(token)

    return method


def wrap_prepare(original: Callable[..., Any]) -> Callable[..., Any]:
    """Give LLaVA-NeXT's input preparation the stashed `modalities`, and one for every row of the batch.

    Mistral and Gemma pass `image_sizes` in the place of `modalities`; and LLaVA-NeXT cuts the batch to as many rows
    as `modalities` has entries (`["image"]` by default), silently.
    """
    signature = inspect.signature(original)
    if "modalities" not in signature.parameters:
        return original

    @functools.wraps(original)
    def prepare_inputs_labels_for_multimodal(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = bind(signature, self, args, kwargs)
        call, stashed = bound.arguments, _STASH.get()
        modalities = call["modalities"]
        if isinstance(modalities, str):
            modalities = [modalities]
        elif modalities is None or not all(isinstance(kind, str) for kind in modalities):
            call["image_sizes"] = modalities if call["image_sizes"] is None else call["image_sizes"]
            modalities = ["image"]
        modalities = list(stashed if stashed is not None else modalities)
        rows = call["input_ids"].shape[0] if call["input_ids"] is not None else 0
        call["modalities"] = modalities + ["image"] * (rows - len(modalities))
        return original(*bound.args, **bound.kwargs)

    return prepare_inputs_labels_for_multimodal


def wrap_from_pretrained(original: classmethod) -> classmethod:
    """A LLaVA class's `from_pretrained` that can quantize: the language model's linear layers, and nothing else.

    LLaVA passes load_in_4bit together with quantization_config (refused by transformers >= 4.40), a device_map
    together with low_cpu_mem_usage=False, and lets the projector be quantized.
    """
    inner = original.__func__

    @functools.wraps(inner)
    def from_pretrained(cls: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        request = take_request(kwargs)
        if request is None:
            return inner(cls, path, *args, **kwargs)
        if torch.cuda.is_available():
            # transformers quantizes shard by shard as it loads, so that no whole copy lies in memory.
            if not kwargs.get("low_cpu_mem_usage"):  # training; the loader sets it and has prepared its config itself
                kwargs["config"] = prepare_tower(kwargs.get("config") or cls.config_class.from_pretrained(path), path)
            kwargs["low_cpu_mem_usage"] = True
            kwargs.setdefault("device_map", {"": torch.cuda.current_device()})
            return inner(cls, path, *args, quantization_config=request, **kwargs)
        for name in ("device_map", "low_cpu_mem_usage"):
            kwargs.pop(name, None)
        loaded = inner(cls, path, *args, **kwargs)
        quantize(loaded[0] if isinstance(loaded, tuple) else loaded, request)
        return loaded

    return classmethod(from_pretrained)


def take_request(kwargs: dict[str, Any]) -> Any:
    """Remove every quantization argument and return one BitsAndBytesConfig, or None where there was none."""
    four, eight = kwargs.pop("load_in_4bit", False), kwargs.pop("load_in_8bit", False)
    given = kwargs.pop("quantization_config", None)
    if not (four or eight or given):
        return None
    from transformers import BitsAndBytesConfig

    if given is None:
        dtype = kwargs.get("torch_dtype", torch.float16)
        given = BitsAndBytesConfig(load_in_4bit=four, load_in_8bit=eight, bnb_4bit_compute_dtype=dtype)
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise Ego2ExoError("4-bit or 8-bit weights without bitsandbytes", "", "pip install bitsandbytes") from error
    given.llm_int8_skip_modules = list(SKIPPED)
    return given


def quantize(model: nn.Module, request: Any) -> None:
    """Replace the language model's linear layers by bitsandbytes' own, in place, by a BitsAndBytesConfig."""
    for name, module in list(model.named_modules()):
        for child_name, child in list(module.named_children()):
            path = f"{name}.{child_name}" if name else child_name
            if type(child) is nn.Linear and not any(part in SKIPPED for part in path.split(".")):
                setattr(module, child_name, _quantized(child, request))
    # peft chooses its quantized LoRA layers by these; `quantization_method` would make transformers refuse to train.
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = bool(request.load_in_4bit), bool(request.load_in_8bit)


def _quantized(linear: nn.Linear, request: Any) -> nn.Module:
    import bitsandbytes as bnb

    bias, device = linear.bias is not None, linear.weight.device
    sizes = (linear.in_features, linear.out_features, bias)
    with torch.device("meta"):
        if request.load_in_4bit:
            kind = {"quant_type": request.bnb_4bit_quant_type, "compress_statistics": request.bnb_4bit_use_double_quant}
            new = bnb.nn.Linear4bit(*sizes, compute_dtype=request.bnb_4bit_compute_dtype, **kind)
        else:
            new = bnb.nn.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=request.llm_int8_threshold)
            # peft 0.10 reads this switch, which bitsandbytes has dropped since.
            new.state.memory_efficient_backward = getattr(new.state, "memory_efficient_backward", False)
    weight = linear.weight.data
    if request.load_in_4bit:
        new.weight = bnb.nn.Params4bit(weight, requires_grad=False, module=new, **kind)
    else:
        new.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    new.bias = nn.Parameter(linear.bias.data, requires_grad=False) if bias else None
    return new.to(device)


def wrap_attention(original: classmethod) -> classmethod:
    """Flash attention is LLaVA-NeXT's default, in training and loading; without flash-attn, sdpa with a warning."""
    inner = original.__func__

    @functools.wraps(inner)
    def from_pretrained(cls: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        from transformers.utils import is_flash_attn_2_available

        if kwargs.get("attn_implementation") == "flash_attention_2" and not is_flash_attn_2_available():
            reason = "flash-attn is not installed" if torch.cuda.is_available() else "there is no CUDA device"
            warnings.warn(f"flash_attention_2 was requested, but {reason}: using sdpa.", stacklevel=2)
            kwargs["attn_implementation"] = "sdpa"
        return inner(cls, path, *args, **kwargs)

    return classmethod(from_pretrained)


def missing_classes(host: Any) -> dict[str, Any]:
    """LLaVA-NeXT's classes that a host module names and never imports; a transformers without the model has none."""
    found = {}
    for module, name in _UNIMPORTED.items():
        if not hasattr(host, name):
            with contextlib.suppress(ImportError):
                found[name] = getattr(importlib.import_module(f"llava.model.language_model.{module}"), name)
    return found
