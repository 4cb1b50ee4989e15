"""Fixes of what LLaVA saves: generation settings that transformers refuses, and embeddings that it has added."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from ...common.processes import log_line
from ..checkpoint.vocabulary import ADDED_ROWS

# Settings of `generate` that do nothing without sampling, and without beams.
_SAMPLING = ("temperature", "top_p", "min_p", "typical_p", "top_k", "epsilon_cutoff", "eta_cutoff")
_BEAMS = ("early_stopping", "num_beam_groups", "diversity_penalty", "length_penalty", "constraints")


def wrap_generation(original: classmethod) -> classmethod:
    """A base such as lmsys/vicuna-7b-v1.5, whose generation_config.json transformers reads and refuses to write."""
    inner = original.__func__

    @functools.wraps(inner)
    def from_pretrained(cls: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            # transformers' own of each setting, several times; one line below reports all.
            warnings.filterwarnings("ignore", "`(do_sample|num_beams)` is set to ", UserWarning)
            loaded = inner(cls, path, *args, **kwargs)
        drop_idle_settings((loaded[0] if isinstance(loaded, tuple) else loaded).generation_config, str(path))
        return loaded

    return classmethod(from_pretrained)


def drop_idle_settings(config: Any, path: str) -> None:
    """Reset what does nothing in a GenerationConfig, in place, where transformers would not save it for that reason."""
    from transformers import GenerationConfig

    if config is None or _savable(config):
        return
    names = () if config.do_sample else _SAMPLING
    names += _BEAMS if config.num_beams == 1 else ()
    names += ("num_return_sequences",) if config.num_beams == 1 and not config.do_sample else ()
    plain = GenerationConfig()
    idle = {name: getattr(config, name, None) for name in names}
    idle = {name: value for name, value in idle.items() if value != getattr(plain, name, None) and value is not None}
    if (config.pad_token_id or 0) < 0:  # as LLaMA's first files have it
        idle["pad_token_id"] = config.pad_token_id
    for name in idle:
        setattr(config, name, getattr(plain, name))
    settings = ", ".join(f"{name} {value}" for name, value in idle.items())
    if settings:
        log_line(f"generation_config.json of {path}: left out {settings}, which do nothing there and cannot be saved")


def _savable(config: Any) -> bool:
    """As `save_pretrained` finds out: a warning is enough to refuse."""
    try:
        # Python ends with the filters of the last warning: "error" would turn warnings at its exit into tracebacks.
        with warnings.catch_warnings(record=True) as found:
            warnings.filterwarnings("always", category=UserWarning)
            config.validate()
    except ValueError:
        return False
    return not found


def mark_added_tokens(original: Callable[..., None]) -> Callable[..., None]:
    """In a run with ego tokens, note from which row on the embeddings are of tokens that LLaVA has just added."""

    @functools.wraps(original)
    def initialize_vision_tokenizer(self: Any, model_args: Any, tokenizer: Any) -> None:
        before = len(tokenizer)
        original(self, model_args, tokenizer)
        if len(tokenizer) > before and getattr(self.config, "ego2exo", False):
            for layer in (self.get_input_embeddings(), self.get_output_embeddings()):
                layer.weight.added_from = before

    return initialize_vision_tokenizer


def keep_added_rows(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """What LLaVA gathers to be saved beside an adapter, or as a projector, with these rows."""

    @functools.wraps(original)
    def gather(named_params: Iterable[Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        named = list(named_params)
        found = original(iter(named), *args, **kwargs)
        for name, value in named:
            if hasattr(value, "added_from") and name not in found:
                found[name.removesuffix(".weight") + ADDED_ROWS] = value.detach()[value.added_from :].cpu().clone()
        return found

    return gather
