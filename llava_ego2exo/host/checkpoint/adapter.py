"""A LoRA folder's adapter: its config as the installed PEFT takes it, and exactly the weights that it asks for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from ...common.json_io import read_json
from ...common.processes import log_line
from ...common.text import shorten_list
from ...errors import Ego2ExoError, require_package
from ..hooks.install import substituted
from .files import ADAPTER_CONFIG, find_file

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# Keys of later PEFTs that change nothing, whatever they hold: the second is a part of `use_qalora`.
_IDLE = {"peft_version", "qalora_group_size"}
_WHOLE = "take the folder that training wrote, whole, and the base that it was trained from"


def read_adapter_config(path: str) -> Any:
    """The `LoraConfig` of a folder or hub name; what later PEFTs have added to the file is left out where it is empty.

    Raises:
        Ego2ExoError: no weights beside it; no JSON; no LoRA; a setting that the installed PEFT does not know.
    """
    peft, file = require_package("peft", "qlora"), find_file(path, ADAPTER_CONFIG)
    allowed, stored = "a LoRA adapter's config", read_json(str(file), "a LoRA adapter's config")
    if not isinstance(stored, dict) or stored.get("peft_type") != "LORA":
        kind = stored.get("peft_type") if isinstance(stored, dict) else type(stored).__name__
        raise Ego2ExoError(f"{file} is of the type {kind!r}", f'{allowed}, with "peft_type": "LORA"', _WHOLE)
    if not any(find_file(path, name) for name in _WEIGHTS):
        raise Ego2ExoError(f"{path} holds {ADAPTER_CONFIG} without weights", " or ".join(_WEIGHTS), _WHOLE)
    unknown = sorted(stored.keys() - {field.name for field in fields(peft.LoraConfig)})
    meant = [f"{name}: {stored[name]}" for name in unknown if stored[name] and name not in _IDLE]
    if meant:
        raise Ego2ExoError(
            f"{file} sets {', '.join(meant)}, which the installed peft {peft.__version__} does not have",
            "settings that the installed peft computes with",
            f"install the peft that wrote it ({stored.get('peft_version') or 'a later one'})",
        )
    if unknown:
        log_line(f"{file}: left out {', '.join(unknown)}: not in use, and peft {peft.__version__} does not have them")
    try:
        return peft.LoraConfig(**{name: value for name, value in stored.items() if name not in unknown})
    except (TypeError, ValueError) as error:
        raise Ego2ExoError(f"{file}: {str(error).splitlines()[0]}", allowed, _WHOLE) from error


def attach_adapter(model: Any, path: str, config: Any) -> Any:
    """The model with its adapter, as `PeftModel.from_pretrained` makes it, but for weights that do not fit.

    Raises:
        Ego2ExoError: PEFT cannot build the adapter of this config on the model, or see :func:`exact_adapter`.
    """
    from peft.peft_model import PeftModel

    targets = config.target_modules if isinstance(config.target_modules, (list, set)) else []
    names = [name for name, module in model.named_modules() if next(module.children(), None) is not None]
    parts = sorted({target for target in targets for name in names if f".{name}".endswith(f".{target}")})
    if parts:
        raise Ego2ExoError(
            f"{path}/{ADAPTER_CONFIG} has {', '.join(parts)} among its target_modules: whole parts of the model",
            "names of single linear layers", _WHOLE,
        )  # fmt: skip
    try:
        with exact_adapter(path):
            return PeftModel.from_pretrained(model, path, config=config)
    except Ego2ExoError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0][:200]
        given = f"peft cannot build the adapter of {path}: {reason}"
        raise Ego2ExoError(given, "an adapter that fits the base", _WHOLE) from error


@contextlib.contextmanager
def exact_adapter(path: str) -> Iterator[None]:
    """Inside the block PEFT takes an adapter's weights only if they are those of the adapter that its config makes.

    PEFT itself leaves what is missing at random, and drops what it does not know. Keys with a `.default` in them, as
    DeepSpeed runs wrote them, are read.

    Raises:
        Ego2ExoError: some are missing, others are there, or shapes differ.
    """
    import peft.peft_model as host

    original = host.set_peft_model_state_dict

    def set_weights(model: Any, weights: Mapping[str, Tensor], adapter_name: str = "default", **options: Any) -> Any:
        own = host.get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
        if not any("vision_tower." in name for name in weights):
            # LLaVA's targets are name endings, which match the tower's layers too where it is built before the adapter.
            own = {name: tensor for name, tensor in own.items() if "vision_tower." not in name}
        heads = ("embed_tokens.weight", "lm_head.weight")  # PEFT adds them to a checkpoint when they were enlarged
        state = model.state_dict()
        others = {name: tensor for name, tensor in state.items() if name.endswith(heads)}
        read = _without_adapter_name(weights, f"{path}: LoRA weights")
        if model.peft_config[adapter_name].bias == "all":  # LLaVA saves the frozen tower's too, which come with it
            tower = {name for name in read if "vision_tower." in name and name.endswith("bias")} - state.keys()
            read = {name: tensor for name, tensor in read.items() if name not in tower}
        require_weights(read, own, {**others, **own}, f"{path}: LoRA weights", f"its {ADAPTER_CONFIG} and base")
        return original(model, read, adapter_name=adapter_name, **options)

    with substituted(host, set_peft_model_state_dict=set_weights):
        yield


def _without_adapter_name(weights: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    plain = {name: re.sub(r"\.default(?=\.|$)", "", name) for name in weights}
    if len(set(plain.values())) < len(plain):
        twice = sorted(name for name, short in plain.items() if short in weights and short != name)
        raise Ego2ExoError(f"{what}: {len(twice)} are there twice: {shorten_list(twice, 3)}", "each once", _WHOLE)
    return {plain[name]: tensor for name, tensor in weights.items()}


def require_weights(
    found: Mapping[str, Tensor], required: Mapping[str, Tensor], known: Mapping[str, Tensor], what: str, of: str
) -> None:
    """Compare the weights of a file with those of the model that they are for.

    Args:
        found: in the file, by name.
        required: of the model, that must be in the file.
        known: of the model, that may be.
        what: they are, for the error.
        of: what they have to fit, for the error.

    Raises:
        Ego2ExoError: counts and names what is missing, unknown or of another shape.
    """
    shapes = [
        f"{name} is {tuple(found[name].shape)} and not {tuple(known[name].shape)}"
        for name in sorted(found.keys() & known.keys()) if found[name].shape != known[name].shape
    ]  # fmt: skip
    cases = {
        "missing": sorted(required.keys() - found.keys()),
        "of no weight of the model": sorted(found.keys() - known.keys()),
        "of another shape": shapes,
    }
    faults = [f"{len(names)} {case} ({shorten_list(names, 3)})" for case, names in cases.items() if names]
    if faults:
        given = f"{what} do not fit {of}: {', '.join(faults)}"
        raise Ego2ExoError(given, "exactly the weights that were trained", _WHOLE)
