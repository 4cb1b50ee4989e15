"""`llava.model.builder.load_pretrained_model`: the real function, with the class taken from the checkpoint's config.

LLaVA-NeXT chooses classes by letters in the path, knows no Qwen with a base, needs CUDA, and lets missing weights
pass as random ones. Its function still does the loading; names that it looks up are substituted while it runs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ..common.json_io import read_json
from ..errors import Ego2ExoError
from .checkpoint.config import CLASSES, class_key, llava_class, read_config, torch_dtype
from .checkpoint.files import Checkpoint, describe, extra_weights
from .checkpoint.safety import check_tower_code, only_weights, require_whole_weights
from .fixes.towers import prepare_tower
from .hooks.install import substituted


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


class Loading:
    """One call of the loader: its checks, what it substitutes, and what it verifies afterwards."""

    def __init__(
        self, host: Any, checkpoint: Checkpoint, base: str | None, config: dict[str, Any], call: Any, dtype: torch.dtype
    ) -> None:
        self.host, self.checkpoint, self.base, self.call, self.dtype = host, checkpoint, base, call, dtype
        self.key: str = class_key(config, checkpoint.path)  # type: ignore[assignment]
        check_base(checkpoint, base, config)
        require_whole_weights(checkpoint.path)
        require_whole_weights(base)
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
        check_tower_code(getattr(config, "mm_vision_tower", None))
        return prepare_tower(config, self.base or self.checkpoint.path, frozenset(self.extras))

    def _route(self) -> None:
        """Arguments that take LLaVA's function down the branch that fits the checkpoint."""
        call = self.call
        # With a base every branch differs only in the class, which is substituted; Qwen's is missing.
        kind = {"lora": "llava_llama_lora", "projector": "llava_llama"}.get(self.checkpoint.kind, self.key)
        call["model_name"] = kind
        call.update({name: None for name in ("customized_config", "overwrite_config") if name in call})
        if "torch_dtype" in call:
            call["torch_dtype"] = "float16"  # it knows only two names; the real one is given to the class
        if not torch.cuda.is_available() and "device" not in call:
            call["device_map"] = "auto"  # anything else makes it move the tower to CUDA

    @contextlib.contextmanager
    def substitutions(self) -> Any:
        """Names in LLaVA's modules that mean something else while its function runs."""
        # LLaVA calls their `from_pretrained` alone; LlavaConfig's in every branch with a base, whatever the model.
        names = dict.fromkeys((name for _, name in CLASSES.values()), SimpleNamespace(from_pretrained=self._model))
        names["AutoTokenizer"] = SimpleNamespace(from_pretrained=self._tokenizer)
        config = SimpleNamespace(from_pretrained=lambda *_args, **_kwargs: self.config)
        quantized = self.call["load_4bit"] or self.call["load_8bit"]
        with contextlib.ExitStack() as stack:
            stack.enter_context(only_weights())
            stack.enter_context(quiet())
            llama = importlib.import_module("llava.model.language_model.llava_llama")
            stack.enter_context(substituted(llama, LlavaConfig=config))
            stack.enter_context(substituted(self.host, **names))
            if quantized and self.checkpoint.kind == "lora":
                from peft.tuners.lora import LoraModel

                # Merging would round base and adapter together to 4 bits: not the model that was trained.
                stack.enter_context(substituted(LoraModel, merge_and_unload=lambda lora, *_a, **_k: lora.model))
            yield

    def _model(self, path: str, *_args: Any, **kwargs: Any) -> Any:
        """The model of the class that the checkpoint's config names."""
        kwargs.update(config=self.config, torch_dtype=self.dtype, low_cpu_mem_usage=True)
        model, info = llava_class(self.key).from_pretrained(path, output_loading_info=True, **kwargs)
        self._check_missing(info["missing_keys"])
        self._check_offloaded(model)
        if info["mismatched_keys"]:
            raise Ego2ExoError(f"{path}: shapes of weights differ from its config: {info['mismatched_keys'][:3]}")
        return model

    def _tokenizer(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """The base's tokenizer, as an adapter's folder has none."""
        from transformers import AutoTokenizer

        of_adapter = self.checkpoint.kind != "full" and path == self.checkpoint.path
        return AutoTokenizer.from_pretrained(self.base if of_adapter else path, *args, **kwargs)

    def _check_missing(self, missing: list[str]) -> None:
        """Weights that no file holds would be random ones."""
        lost = sorted(set(missing) - self.extras.keys())
        if lost:
            where = f"{self.base} and {self.checkpoint.path}" if self.base else self.checkpoint.path
            raise Ego2ExoError(
                f"{len(lost)} weight(s) of the model are in no file of {where}: {', '.join(lost[:4])}",
                "every weight in a file",
                "restore the missing files, or check that the base is the one that was trained on",
            )

    def _check_offloaded(self, model: Any) -> None:
        """Weights that accelerate keeps on CPU or disk are empty in the model: an adapter's would be lost there."""
        places = getattr(model, "hf_device_map", {})
        devices = set(places.values()) - {"cpu", "disk"}
        parts = [name for name, place in places.items() if place == "disk" or (place == "cpu" and devices)]
        if parts and self.checkpoint.kind != "full":
            raise Ego2ExoError(
                f"{self.base} does not fit on the device: {', '.join(parts[:4])} are offloaded, and the weights of "
                f"{self.checkpoint.path} cannot be put there",
                "a device that holds the whole base",
                "merge both first (llava-ego2exo merge) and load the result, or load on another device or in 4 bits",
            )

    def finish(self, model: Any) -> None:
        """Copy the extra weights in at full precision, move the tower to the model, check that nothing is missing."""
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
        offloaded = {"cpu", "disk"} & set(getattr(model, "hf_device_map", {}).values())
        holes = [n for n, p in model.named_parameters() if p.is_meta and not offloaded]
        ego = [(n, p) for n, p in model.named_parameters() if "ego_tokens" in n and not p.is_meta]
        holes += [n for n, p in ego if not torch.isfinite(p).all()]
        if holes:
            raise Ego2ExoError(
                f"weights without values after loading: {', '.join(holes[:4])}", "", "report this as a bug"
            )


@contextlib.contextmanager
def quiet() -> Any:
    """Drop transformers' warning of newly initialised weights: `_check_missing` refuses all but expected ones."""
    logger = logging.getLogger("transformers.modeling_utils")

    def keep(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return "newly initialized" not in text and "TRAIN this model" not in text

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def check_base(checkpoint: Checkpoint, base: str | None, config: dict[str, Any]) -> None:
    """Refuse a missing base, one that is not needed, or one of other sizes."""
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
    trained, given = class_key(config, checkpoint.path), class_key(other, base)
    if given not in (None, trained):
        raise Ego2ExoError(
            f"{checkpoint.path} was trained on a {trained} model, and {base} is a {given} model",
            "the base that training started from",
            f"pass {trained_base(checkpoint.path) or 'that one, see its training command'}",
        )
    for key in ("hidden_size", "num_hidden_layers", "vocab_size"):
        if key in other and key in config and other[key] != config[key]:
            raise Ego2ExoError(
                f"{checkpoint.path} was trained on a base with {key} {config[key]}, and {base} has {other[key]}",
                f"a base with {key} {config[key]}",
                f"pass the base it was trained on ({trained_base(checkpoint.path) or 'see its training command'})",
            )


def trained_base(path: str) -> str | None:
    """The base named in a LoRA folder's own adapter_config.json."""
    try:
        return read_json(Path(path, "adapter_config.json"), "an adapter's config").get("base_model_name_or_path")
    except (ValueError, AttributeError):
        return None  # only a hint in messages is lost
