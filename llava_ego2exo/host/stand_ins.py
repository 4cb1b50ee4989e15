"""What LLaVA's loader finds in place of the names it looks up, for the time of one call."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from ..errors import Ego2ExoError
from .classes import llava_class


class ClassFromConfig:
    """Stands in for every LLaVA class in the loader: builds the class that the checkpoint's config says."""

    def __init__(self, loading: Any) -> None:
        self._loading = loading

    def from_pretrained(self, path: str, *_args: Any, **kwargs: Any) -> Any:
        loading = self._loading
        kwargs.update(config=loading.config, torch_dtype=loading.dtype, low_cpu_mem_usage=True)
        model, info = llava_class(loading.key).from_pretrained(path, output_loading_info=True, **kwargs)
        loading.check_missing(info["missing_keys"])
        loading.check_offloaded(model)
        if info["mismatched_keys"]:
            raise Ego2ExoError(f"{path}: weights of other shapes than its config says: {info['mismatched_keys'][:3]}")
        return model


class ReadConfig:
    """Stands in for LlavaConfig, which LLaVA reads in every branch with a base, whatever the model."""

    def __init__(self, config: Any) -> None:
        self._config = config

    def from_pretrained(self, *_args: Any, **_kwargs: Any) -> Any:
        return self._config


@contextlib.contextmanager
def quiet() -> Any:
    """Leave out transformers' warning of newly initialised weights: the ones meant are in the next file to load.

    `check_missing` refuses all others, so nothing is lost with the warning.
    """
    logger = logging.getLogger("transformers.modeling_utils")

    def expected(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return "newly initialized" not in text and "TRAIN this model" not in text

    logger.addFilter(expected)
    try:
        yield
    finally:
        logger.removeFilter(expected)


class BaseTokenizer:
    """AutoTokenizer that reads the base's tokenizer where LLaVA asks an adapter's folder, which has none."""

    def __init__(self, loading: Any) -> None:
        self._loading = loading

    def from_pretrained(self, path: str, *args: Any, **kwargs: Any) -> Any:
        from transformers import AutoTokenizer

        loading = self._loading
        asked_adapter = loading.checkpoint.kind != "full" and path == loading.checkpoint.path
        return AutoTokenizer.from_pretrained(loading.base if asked_adapter else path, *args, **kwargs)
