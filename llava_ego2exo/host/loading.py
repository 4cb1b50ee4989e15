"""`llava.model.builder.load_pretrained_model`: the real function, with the class taken from the checkpoint's config.

LLaVA-NeXT chooses classes by letters in the path, knows no Qwen with a base, asks for CUDA, and lets missing weights
pass as random ones. Its function still does the loading; what it looks up by name is exchanged while it runs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch

from ..errors import Ego2ExoError
from .checkpoints import Checkpoint, describe, extra_weights
from .command_line import read_config
from .patchboard import substituted
from .safe_load import only_weights
from .tower_weights import prepare_tower

# model_type -> (module below llava.model.language_model, class). MPT is broken upstream in both flavours.
CLASSES = {
    "llava_llama": ("llava_llama", "LlavaLlamaForCausalLM"),
    "llava_qwen": ("llava_qwen", "LlavaQwenForCausalLM"),
    "llava_mistral": ("llava_mistral", "LlavaMistralForCausalLM"),
    "llava_mixtral": ("llava_mixtral", "LlavaMixtralForCausalLM"),
    "llava_gemma": ("llava_gemma", "LlavaGemmaForCausalLM"),
    "llava_qwen_moe": ("llava_qwen_moe", "LlavaQwenMoeForCausalLM"),
}
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def wrap_loader(original: Callable[..., Any]) -> Callable[..., Any]:
    """LLaVA's loader for every kind of checkpoint, device and dtype; models that are not LLaVA's pass through."""
    signature = inspect.signature(original)
    host = inspect.getmodule(original)

    @functools.wraps(original)
    def load_pretrained_model(model_path: Any, model_base: Any, model_name: Any, *args: Any, **kwargs: Any) -> Any:
        config = read_config(model_path)
        if class_key(config, model_path) is None:
            return original(model_path, model_base, model_name, *args, **kwargs)
        dtype = torch_dtype(kwargs.pop("torch_dtype", None))
        bound = signature.bind(model_path, model_base, model_name, *args, **kwargs)
        bound.apply_defaults()
        loading = Loading(host, describe(model_path), model_base, config, bound.arguments, dtype)
        with loading.substitutions():
            result = original(*bound.args, **bound.kwargs)
        loading.finish(result[1])
        return result

    return load_pretrained_model


def torch_dtype(value: Any) -> torch.dtype:
    """The dtype meant by LLaVA's `torch_dtype` argument; unset is its default, float16.

    Raises:
        Ego2ExoError: it is neither a float dtype nor the name of one.
    """
    found = _DTYPES.get(str(value or "float16").removeprefix("torch."))
    if found is None:
        raise Ego2ExoError(f"torch_dtype {value!r}", ", ".join(_DTYPES), "pass one of these")
    return found


def class_key(config: dict[str, Any], path: str) -> str | None:
    """Key in `CLASSES` for a checkpoint's config; None where it is no LLaVA model or one we do not serve.

    Raises:
        Ego2ExoError: it says `llava` (as the OneVision hub configs do) and its architecture is not LLaVA's either.
    """
    kind = config.get("model_type", "")
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


def llava_class(key: str) -> Any:
    """The host's class for a key of `CLASSES`.

    Raises:
        Ego2ExoError: the installed llava or transformers has no such model.
    """
    module, name = CLASSES[key]
    try:
        return getattr(importlib.import_module(f"llava.model.language_model.{module}"), name)
    except ImportError as error:
        raise Ego2ExoError(f"the installed llava has no {name} ({error})", "", "install LLaVA-NeXT") from error


class Loading:
    """One call of the loader: its checks, what it exchanges, and what it verifies afterwards."""

    def __init__(
        self, host: Any, checkpoint: Checkpoint, base: str | None, config: dict[str, Any], call: Any, dtype: torch.dtype
    ) -> None:
        self.host, self.checkpoint, self.base, self.call, self.dtype = host, checkpoint, base, call, dtype
        self.key: str = class_key(config, checkpoint.path)  # type: ignore[assignment]
        check_base(checkpoint, base, config)
        self.extras = extra_weights(checkpoint)
        self.config = self._config()
        self._route()

    def _config(self) -> Any:
        config = self.call.get("customized_config")
        if config is None:
            config = llava_class(self.key).config_class.from_pretrained(self.checkpoint.path)
        for name, value in (self.call.get("overwrite_config") or {}).items():
            setattr(config, name, value)
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # of the training run; the base's weights are not stored quantized
        return prepare_tower(config, self.base or self.checkpoint.path, frozenset(self.extras))

    def _route(self) -> None:
        """Arguments that take LLaVA's function down the branch that fits the checkpoint."""
        call = self.call
        # With a base every branch differs only in the class, which is exchanged; Qwen's is missing.
        kind = {"lora": "llava_llama_lora", "projector": "llava_llama"}.get(self.checkpoint.kind, self.key)
        call["model_name"] = kind
        call.update({name: None for name in ("customized_config", "overwrite_config") if name in call})
        if "torch_dtype" in call:
            call["torch_dtype"] = "float16"  # it knows only two names; the real one is given to the class
        if not torch.cuda.is_available() and "device" not in call:
            call["device_map"] = "auto"  # anything else makes it move the tower to CUDA

    @contextlib.contextmanager
    def substitutions(self) -> Any:
        """Everything that LLaVA's function looks up by name and must find otherwise."""
        proxy = _ClassFromConfig(self)
        names = {name: proxy for _, name in CLASSES.values()}
        quantized = self.call["load_4bit"] or self.call["load_8bit"]
        with contextlib.ExitStack() as stack:
            stack.enter_context(only_weights())
            stack.enter_context(_quiet())
            llama = importlib.import_module("llava.model.language_model.llava_llama")
            stack.enter_context(substituted(llama, LlavaConfig=_ReadConfig(self.config)))
            stack.enter_context(substituted(self.host, AutoTokenizer=_BaseTokenizer(self), **names))
            if quantized and self.checkpoint.kind == "lora":
                from peft.tuners.lora import LoraModel

                # Merging would round base and adapter together to 4 bits: not the model that was trained.
                keep = functools.partialmethod(_unmerged)
                stack.enter_context(substituted(LoraModel, merge_and_unload=keep))
            yield

    def check_missing(self, missing: list[str]) -> None:
        """Weights that no file holds would be random ones.

        Raises:
            Ego2ExoError: naming them.
        """
        lost = sorted(set(missing) - self.extras.keys())
        if lost:
            where = f"{self.base} and {self.checkpoint.path}" if self.base else self.checkpoint.path
            raise Ego2ExoError(
                f"{len(lost)} weight(s) of the model are in no file of {where}: {', '.join(lost[:4])}",
                "every weight in a file",
                "restore the missing files, or check that the base is the one that was trained on",
            )

    def finish(self, model: Any) -> None:
        """Put the extra weights in at full precision, bring the tower to the model, and look for holes."""
        state = dict(model.named_parameters()) | dict(model.named_buffers())
        unknown = [n for n, t in self.extras.items() if n not in state or state[n].shape != t.shape]
        if unknown:
            shape = tuple(self.extras[unknown[0]].shape)
            found = tuple(state[unknown[0]].shape) if unknown[0] in state else "no such weight"
            raise Ego2ExoError(
                f"{self.checkpoint.path}: {unknown[0]} is {shape}, the model has {found} ({len(unknown)} such weights)",
                "weights of the same names and shapes",
                "check that the base is the one that was trained on",
            )
        with torch.no_grad():
            for name, tensor in self.extras.items():
                state[name].copy_(tensor)
        tower = model.get_vision_tower()
        if tower is not None and "device" not in self.call:
            tower.to(model.device)
        holes = [n for n, p in model.named_parameters() if p.is_meta]
        holes += [n for n, p in model.named_parameters() if "ego_tokens" in n and not torch.isfinite(p).all()]
        if holes:
            raise Ego2ExoError(
                f"weights without values after loading: {', '.join(holes[:4])}", "", "report this as a bug"
            )


def _unmerged(lora_model: Any, *_args: Any, **_kwargs: Any) -> Any:
    return lora_model.model


def check_base(checkpoint: Checkpoint, base: str | None, config: dict[str, Any]) -> None:
    """Does the checkpoint need a base, and does this one fit?

    Raises:
        Ego2ExoError: it needs one and got none; it got one and needs none; widths differ.
    """
    if checkpoint.kind == "full":
        if base is not None:
            raise Ego2ExoError(
                f"{checkpoint.path} holds a whole model, and model_base {base} was given too",
                "model_base=None for a whole model; a LoRA or mm_projector.bin folder with its base",
                "leave model_base out",
            )
        return
    if base is None:
        kind = "LoRA adapter" if checkpoint.kind == "lora" else "projector"
        raise Ego2ExoError(
            f"{checkpoint.path} holds a {kind} without its base",
            "the checkpoint that training started from as model_base",
            f"pass model_base={trained_base(checkpoint.path) or '...'!r}, or merge it first: llava-ego2exo merge",
        )
    other = read_config(base)
    for key in ("hidden_size", "num_hidden_layers", "vocab_size"):
        if key in other and key in config and other[key] != config[key]:
            raise Ego2ExoError(
                f"{checkpoint.path} was trained on a base with {key} {config[key]}, and {base} has {other[key]}",
                f"a base with {key} {config[key]}",
                f"pass the base it was trained on ({trained_base(checkpoint.path) or 'see its training command'})",
            )


def trained_base(path: str) -> str | None:
    """The base named in a LoRA folder's own adapter_config.json."""
    import json
    from pathlib import Path

    file = Path(path, "adapter_config.json")
    return json.loads(file.read_text()).get("base_model_name_or_path") if file.is_file() else None


class _ClassFromConfig:
    """Stands in for every LLaVA class in the loader: builds the class that the checkpoint's config says."""

    def __init__(self, loading: Loading) -> None:
        self._loading = loading

    def from_pretrained(self, path: str, *_args: Any, **kwargs: Any) -> Any:
        loading = self._loading
        kwargs.update(config=loading.config, torch_dtype=loading.dtype, low_cpu_mem_usage=True)
        model, info = llava_class(loading.key).from_pretrained(path, output_loading_info=True, **kwargs)
        loading.check_missing(info["missing_keys"])
        if info["mismatched_keys"]:
            raise Ego2ExoError(f"{path}: weights of other shapes than its config says: {info['mismatched_keys'][:3]}")
        return model


class _ReadConfig:
    """Stands in for LlavaConfig, which LLaVA reads in every branch with a base, whatever the model."""

    def __init__(self, config: Any) -> None:
        self._config = config

    def from_pretrained(self, *_args: Any, **_kwargs: Any) -> Any:
        return self._config


@contextlib.contextmanager
def _quiet() -> Any:
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


class _BaseTokenizer:
    """AutoTokenizer that reads the base's tokenizer where LLaVA asks an adapter's folder, which has none."""

    def __init__(self, loading: Loading) -> None:
        self._loading = loading

    def from_pretrained(self, path: str, *args: Any, **kwargs: Any) -> Any:
        from transformers import AutoTokenizer

        loading = self._loading
        asked_adapter = loading.checkpoint.kind != "full" and path == loading.checkpoint.path
        return AutoTokenizer.from_pretrained(loading.base if asked_adapter else path, *args, **kwargs)
