"""What a checkpoint's config.json means: its class and dtype, never by letters in its path; and its tokenizer."""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from typing import TYPE_CHECKING, Any

from ...common.json_io import read_json
from ...errors import Ego2ExoError
from ..hooks.flavour import PYPI, detect, package_folder

if TYPE_CHECKING:  # data files are checked without torch
    import torch


# model_type -> (module below llava.model.language_model, class). MPT is broken upstream in both flavours.
CLASSES = {
    "llava_llama": ("llava_llama", "LlavaLlamaForCausalLM"),
    "llava_qwen": ("llava_qwen", "LlavaQwenForCausalLM"),
    "llava_mistral": ("llava_mistral", "LlavaMistralForCausalLM"),
    "llava_mixtral": ("llava_mixtral", "LlavaMixtralForCausalLM"),
    "llava_gemma": ("llava_gemma", "LlavaGemmaForCausalLM"),
    "llava_qwen_moe": ("llava_qwen_moe", "LlavaQwenMoeForCausalLM"),
}
# model_type of a language model -> the class that LLaVA trains it as.
LANGUAGE_MODELS = {
    "llama": "llava_llama", "qwen2": "llava_qwen", "mistral": "llava_mistral", "mixtral": "llava_mixtral",
    "gemma": "llava_gemma", "qwen2_moe": "llava_qwen_moe",
}  # fmt: skip
_DTYPES = ("float16", "bfloat16", "float32")


def read_config(path: str | None) -> dict[str, Any]:
    """A checkpoint's config.json, local or on the hub.

    Raises:
        Ego2ExoError: there is none.
    """
    from transformers import PretrainedConfig

    file = os.path.join(str(path), "config.json")
    try:
        if os.path.isfile(file) and not isinstance(read_json(file, "a config"), dict):
            raise ValueError("it is not a JSON object")
        return PretrainedConfig.get_config_dict(path)[0]
    except (OSError, ValueError) as error:
        reason = "no such folder, and the hub was not reached or has no such model"
        if os.path.exists(str(path)):
            reason = str(error).splitlines()[0] if os.path.isfile(file) else "the folder holds none"
        raise Ego2ExoError(
            f"no readable config.json at {path!r} ({reason})",
            "a LLaVA checkpoint's folder or hub name",
            "check the path",
        ) from error


def read_tokenizer(path: str, **options: Any) -> Any:
    """A checkpoint's tokenizer, by transformers' AutoTokenizer with `options`; refused where it has none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, **options)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Ego2ExoError(
            f"no readable tokenizer in {path} ({reason})",
            "a checkpoint with its tokenizer",
            "copy it there, or install what its tokenizer needs",
        ) from error


def torch_dtype(value: Any, given_as: str = "torch_dtype") -> torch.dtype:
    """The dtype meant by LLaVA's `torch_dtype` argument, a dtype or its name; unset is its default, float16."""
    import torch

    name = str(value or "float16").removeprefix("torch.")
    if name not in _DTYPES:
        raise Ego2ExoError(f"{given_as} {value!r}", ", ".join(_DTYPES), "pass one of these")
    return getattr(torch, name)


def class_key(config: dict[str, Any], path: str) -> str | None:
    """Key in `CLASSES` for a checkpoint's config; None where it is no LLaVA model or one we do not serve.

    Raises:
        Ego2ExoError: model_type is `llava` (as in OneVision hub configs) and the architecture is not LLaVA's.
    """
    kind = config.get("model_type", "")
    if kind in LANGUAGE_MODELS and "mm_projector_type" in config:  # as LLaVA-NeXT writes it after a plain base
        kind = LANGUAGE_MODELS[kind]
    if kind != "llava":
        return kind if kind in CLASSES else None
    architectures = config.get("architectures") or ["?"]
    for key, (_, name) in CLASSES.items():
        if architectures[0] == name:
            return key
    raise Ego2ExoError(
        f"{path}: model_type 'llava' with architecture {architectures[0]}",
        ", ".join(name for _, name in CLASSES.values()),
        "take the original LLaVA weights; transformers' own `LlavaForConditionalGeneration` format is another one",
    )


def require_class(config: dict[str, Any], path: str) -> str | None:
    """As :func:`class_key`, but for a class that the installed llava has.

    Raises:
        Ego2ExoError: it has none, as llava-torch has no Qwen; or see :func:`class_key`.
    """
    key = class_key(config, path)
    if key is not None:
        require_host(key, path)
    return key


def require_host(key: str, path: str) -> None:
    """Refuse a class that llava-torch lacks, without importing either."""
    module, name = CLASSES[key]
    if detect() == PYPI and not (package_folder() / "model" / "language_model" / f"{module}.py").is_file():
        raise Ego2ExoError(
            f"{path} is a {key} model, and llava-torch has no {name}", "LLaVA-NeXT, which has it",
            "put a LLaVA-NeXT checkout on PYTHONPATH in place of llava-torch",
        )  # fmt: skip


def llava_class(key: str) -> Any:
    """The host's class for a key of `CLASSES`; refused where the installed llava or transformers has none."""
    module, name = CLASSES[key]
    try:
        return getattr(importlib.import_module(f"llava.model.language_model.{module}"), name)
    except ImportError as error:
        raise Ego2ExoError(f"the installed llava has no {name} ({error})", "", "install LLaVA-NeXT") from error


def wrap_class(original: classmethod) -> classmethod:
    """Fix: training chooses the class by letters anywhere in the path; this takes the one that the config names."""
    inner = original.__func__

    @functools.wraps(inner)
    def from_pretrained(cls: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        key = _stored_key(path) if isinstance(path, str) else None
        meant = llava_class(key) if key else cls
        if meant is cls or cls.__name__ not in {name for _, name in CLASSES.values()}:
            return inner(cls, path, *args, **kwargs)
        warnings.warn(f"{path} is a {meant.__name__} by its config; LLaVA chose {cls.__name__}.", stacklevel=2)
        return meant.from_pretrained(path, *args, **kwargs)

    return classmethod(from_pretrained)


def _stored_key(path: str) -> str | None:
    try:
        return class_key(read_config(path), path)
    except Ego2ExoError:
        return None  # unreadable, or not LLaVA's format: the original reports it
