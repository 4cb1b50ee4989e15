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
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ..common.processes import log_line
from ..errors import Ego2ExoError
from .checkpoint.adapter import attach_adapter, read_adapter_config, require_weights
from .checkpoint.config import CLASSES, class_key, llava_class, read_config, require_class, torch_dtype
from .checkpoint.files import (
    LORA_EXTRAS,
    PROJECTOR,
    Checkpoint,
    describe,
    extra_weights,
    fingerprint,
    require_whole_model,
    trained_base,
)  # fmt: skip
from .checkpoint.safety import check_tower_code, only_weights, require_whole_weights
from .checkpoint.vocabulary import enlarge, vocabulary_size
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
        _report_another_base(checkpoint, base)
        require_whole_weights(checkpoint.path)
        require_whole_weights(base)
        self.extras = extra_weights(checkpoint)
        self.adapter = read_adapter_config(checkpoint.path) if checkpoint.kind == "lora" else None
        self.projector_trained = trains_projector(config)
        self.config = self._config()
        self.vocabulary = getattr(self.config, "vocab_size", None)
        if base is not None:
            self.config.vocab_size = read_config(base).get("vocab_size", self.vocabulary)
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
            if self.adapter is not None:
                import peft
                from peft.tuners.lora import LoraModel

                own = SimpleNamespace(from_pretrained=lambda model, path: attach_adapter(model, path, self.adapter))
                stack.enter_context(substituted(peft, PeftModel=own))
            if quantized and self.adapter is not None:
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
        if self.base is not None:
            enlarge(model, self.vocabulary, self.extras, self.checkpoint.path)
            self._check_extras(model)
        return model

    def _check_extras(self, model: Any) -> None:
        """What was trained beside LoRA fits the model, and the projector is whole: the base may hold one too."""
        known = dict(model.named_parameters()) | dict(model.named_buffers())
        required = {name: value for name, value in known.items() if self.projector_trained and "mm_projector." in name}
        file = f"{self.checkpoint.path}/{LORA_EXTRAS if self.adapter is not None else PROJECTOR}"
        require_weights(self.extras, required, known, f"{file}: weights", f"the base {self.base}")

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


def loader_call(folder: str, base: str | None, dtype: str, bits: int = 16) -> str:
    """The lines of Python that load a checkpoint, to be pasted."""
    name = "llava_ego2exo" + ("_lora" if describe(folder).kind == "lora" else "")
    quantized = f", load_{bits}bit=True" if bits in (4, 8) else ""
    return (
        "  import llava_ego2exo; llava_ego2exo.register()\n"
        "  from llava.model.builder import load_pretrained_model\n"
        "  tokenizer, model, image_processor, context_len = load_pretrained_model(\n"
        f"      {folder!r}, {base!r}, {name!r}, torch_dtype={dtype!r}{quantized})"
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


def check_base(checkpoint: Checkpoint, base: str | None, config: dict[str, Any], flag: str = "model_base") -> None:
    """Refuse a missing base, one that is not needed, or one of other sizes; `flag` is what the caller gives it by."""
    require_class(config, checkpoint.path)
    if checkpoint.kind == "full":
        if base is not None:
            raise Ego2ExoError(
                f"{checkpoint.path} holds a whole model, and {flag} {base} was given too",
                "a base for a LoRA or mm_projector.bin folder alone",
                f"leave {flag} out",
            )
        return
    if base is None:
        kind = "LoRA adapter" if checkpoint.kind == "lora" else "projector"
        raise Ego2ExoError(
            f"{checkpoint.path} holds a {kind} without its base",
            f"the checkpoint that training started from as {flag}",
            f"give {trained_base(checkpoint.path) or 'it'} as {flag}, or merge it first: llava-ego2exo merge",
        )
    if os.path.realpath(base) == os.path.realpath(checkpoint.path):
        raise Ego2ExoError(
            f"{checkpoint.path} is given as its own base",
            "the checkpoint that training started from",
            f"give {trained_base(checkpoint.path) or 'that one, see its training command'} as {flag}",
        )
    require_whole_model(base, flag)
    other = read_config(base)
    trained, given = class_key(config, checkpoint.path), class_key(other, base)
    if given not in (None, trained):
        raise Ego2ExoError(
            f"{checkpoint.path} was trained on a {trained} model, and {base} is a {given} model",
            "the base that training started from",
            f"pass {trained_base(checkpoint.path) or 'that one, see its training command'}",
        )
    for key in ("hidden_size", "num_hidden_layers", "vocab_size"):
        if key not in other or key not in config or other[key] == config[key]:
            continue
        if key != "vocab_size" or vocabulary_size(config, base, other[key]) != config[key]:
            raise Ego2ExoError(
                f"{checkpoint.path} was trained on a base with {key} {config[key]}, and {base} has {other[key]}",
                f"a base with {key} {config[key]}",
                f"pass the base it was trained on ({trained_base(checkpoint.path) or 'see its training command'})",
            )


def _report_another_base(checkpoint: Checkpoint, base: str | None) -> None:
    """A base of the same sizes loads without an error, and the sum is a model that was never trained."""
    named = None if base is None else trained_base(checkpoint.path)
    if named is None or os.path.realpath(named) == os.path.realpath(base):
        return
    if not os.path.isdir(named) and Path(named).name == Path(base).name:
        return  # the hub's name, or the path on another machine
    with contextlib.suppress(Ego2ExoError):  # what has no weights any more is another one
        if os.path.isdir(named) and fingerprint(named) == fingerprint(base):
            return
    log_line(f"{checkpoint.path} was trained from {named}, and is loaded on {base}")


def trains_projector(config: dict[str, Any]) -> bool:
    """Whether a run has trained its projector, by the config that it saved."""
    parts = config.get("mm_tunable_parts")
    return "mm_mlp_adapter" in parts.split(",") if parts else not config.get("freeze_mm_mlp_adapter")
