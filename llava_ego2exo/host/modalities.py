"""`modalities` for hosts and models whose `forward` and `generate` do not take it.

LLaVA-NeXT says per picture list entry whether it is a video; its Mistral and Gemma classes and all of llava-torch
lack the argument, so they crash on LLaVA-NeXT's own collator or never see a video.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from ..errors import Ego2ExoError

_STASH: ContextVar[list[str] | None] = ContextVar("ego2exo_modalities", default=None)


def stashed_modalities() -> list[str] | None:
    """What the running `forward` or `generate` was given as `modalities`, where its own code cannot carry it."""
    return _STASH.get()


def bind(
    signature: inspect.Signature, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> inspect.BoundArguments:
    """Arguments of the input preparation by name, defaults filled in.

    Raises:
        Ego2ExoError: the model passes other ones, as MPT's class does in both hosts.
    """
    try:
        bound = signature.bind(model, *args, **kwargs)
    except TypeError as error:
        raise Ego2ExoError(
            f"{type(model).__name__} calls LLaVA's input preparation wrongly ({error})",
            "a model class that fits the installed llava (Llama, Qwen2, Mistral, ...)",
            "choose another language model: upstream cannot run this one either",
        ) from error
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
            del kwargs["output_router_logits"]  # Mixtral's generate passes it, though it asks for nothing
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
