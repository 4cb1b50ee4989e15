"""Fixes of LLaVA's training data: placeholders of distillation samples stay in their place, stored samples unchanged.

LLaVA moves a lone placeholder to the front of its turn; the paper puts the video before or after the query, at random.
A row's own system prompt takes the place of the template's.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from ..hooks.install import substituted

PLACEHOLDER = "<image>"
# Keys of a row in memory: its placeholder stays in its place; its system prompt.
KEPT_PLACE, SYSTEM = "ego2exo_kept_place", "ego2exo_system"
_KEEP: ContextVar[bool] = ContextVar("ego2exo_keep_placement", default=False)
# LLaVA-NeXT's functions that take the system prompt as an argument, by the template's version.
_WITH_SYSTEM = {"qwen": "preprocess_qwen", "llama_v3": "preprocess_llama3"}


@contextlib.contextmanager
def written_as(sample: dict[str, Any]) -> Iterator[None]:
    """Turns prepared inside have the sample's system prompt, and keep their placeholder's place in distillation.

    Other samples are left to LLaVA, so that a file trains as it always did.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(_KEEP.reset, _KEEP.set("ego_video" in sample or KEPT_PLACE in sample))
        if SYSTEM in sample:
            _set_system(stack, sample[SYSTEM])
        yield


def _set_system(stack: contextlib.ExitStack, text: str) -> None:
    import llava.train.train as host
    from llava import conversation

    template = copy.copy(conversation.default_conversation)
    head = template.system.split("\n")[0] + "\n" if template.system.startswith("<|") else ""
    template.system = head + text
    stack.enter_context(substituted(conversation, default_conversation=template))
    name = _WITH_SYSTEM.get(template.version)
    if name is not None:
        made = functools.partial(getattr(host, name), system_message=text)
        stack.enter_context(substituted(host, **{name: made}))


def keep_placement(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let LLaVA's `preprocess_multimodal` do its work, then move the placeholder back behind its query."""

    @functools.wraps(original)
    def preprocess_multimodal(sources: Any, data_args: Any) -> Any:
        behind = [_split(turn["value"]) if _KEEP.get() else None for source in sources for turn in source]
        prepared = original(sources, data_args)
        turns = [turn for source in prepared for turn in source]
        for turn, query in zip(turns, behind, strict=True):
            if query is not None:
                turn["value"] = _behind(turn["value"], query)
        return prepared

    return preprocess_multimodal


def _split(text: str) -> str | None:
    """The query that a lone placeholder stands behind; None for any other turn."""
    text = text.rstrip()
    query = text.removesuffix(PLACEHOLDER)
    return query.strip() if query != text and PLACEHOLDER not in query and query.strip() else None


def _behind(prepared: str, query: str) -> str:
    """The placeholder, with whatever LLaVA has put around it, from before the query to behind it."""
    around = prepared.removesuffix(f"\n{query}")
    return f"{query}\n{around}" if around != prepared else prepared


def keep_turns(original: Callable[..., Any]) -> Callable[..., Any]:
    """Fix: LLaVA-NeXT writes the time instruction into the stored sample, once more with every epoch."""

    @functools.wraps(original)
    def _get_item(self: Any, i: int) -> Any:
        kept = self.list_data_dict[i]
        self.list_data_dict[i] = copy.deepcopy(kept)
        try:
            return original(self, i)
        finally:
            self.list_data_dict[i] = kept

    return _get_item


def compile_once(original: Callable[..., Any]) -> Callable[..., Any]:
    """Fix: LLaVA-NeXT copies the tokenizer for every sample, and old transformers cache templates by tokenizer."""
    from transformers import PreTrainedTokenizerBase

    cached = getattr(PreTrainedTokenizerBase, "_compile_jinja_template", None)
    if cached is None:
        return original
    by_text = functools.lru_cache(functools.partial(cached.__wrapped__, None))  # nothing of the tokenizer is read

    @functools.wraps(original)
    def preprocess(*args: Any, **kwargs: Any) -> Any:
        with substituted(PreTrainedTokenizerBase, _compile_jinja_template=staticmethod(by_text)):
            return original(*args, **kwargs)

    return preprocess
