"""The files of a checkpoint that LLaVA or this plugin saved: its kind, the names of its weights, its fingerprint."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...common.json_io import read_json
from ...errors import Ego2ExoError
from .config import read_config
from .safety import only_weights

ADAPTER_CONFIG = "adapter_config.json"
LORA_EXTRAS = "non_lora_trainables.bin"
PROJECTOR = "mm_projector.bin"
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE = ("model.safetensors", "pytorch_model.bin")
# For the fingerprint: weight files, of which samples are read, and small files, which are read whole.
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*", LORA_EXTRAS, PROJECTOR)
_SMALL = ("config.json", "generation_config.json", "adapter_config.json", "tokenizer*", "vocab*", "merges.txt",
          "added_tokens.json", "special_tokens_map.json", "preprocessor_config.json", "*.index.json")  # fmt: skip
_BLOCK, _SAMPLES = 1 << 16, 16


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint: folder or hub name, and kind: `full`, `lora` (adapter with extras) or `projector` (alone)."""

    path: str
    kind: str


def describe(path: str) -> Checkpoint:
    """A checkpoint's kind by its files, never by letters in its name; `full` where none of them is found."""
    if find_file(path, ADAPTER_CONFIG):
        return Checkpoint(path, "lora")
    full = any(find_file(path, name) for name in (*_INDEXES, *_SINGLE))
    return Checkpoint(path, "projector" if not full and find_file(path, PROJECTOR) else "full")


def find_file(path: str, name: str) -> str | None:
    """Path of a checkpoint's file, fetched from the hub if need be; None where there is none."""
    from transformers.utils import cached_file

    if Path(path).is_dir():
        return str(Path(path, name)) if Path(path, name).is_file() else None
    try:
        return cached_file(
            path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
    except OSError:
        return None


def require_whole_model(path: str, flag: str, otherwise: str = "") -> None:
    """Refuse a LoRA or projector folder where a whole model is to be read.

    Args:
        otherwise: what to do instead of merging, with `{base}` and `{run}` for what it was trained from and its folder.

    Raises:
        Ego2ExoError: names the ways out.
    """
    kind, folder = describe(path).kind, Path(path)
    if kind == "full":
        return
    base = shlex.quote(trained_base(path) or "BASE")
    run = folder.parent if folder.name.startswith("checkpoint-") else folder
    raise Ego2ExoError(
        f"{flag} {path} holds a {'LoRA adapter' if kind == 'lora' else 'projector'}, and no whole model",
        "a whole model",
        f"merge it into its base first (llava-ego2exo merge {shlex.quote(str(path))} --base {base} --out DIR) and give "
        "the result" + (f"; or, {otherwise.format(base=base, run=shlex.quote(str(run)))}" if otherwise else ""),
    )


def trained_base(path: str) -> str | None:
    """The base that a LoRA folder names in its adapter_config.json, a projector folder in its config.json."""
    kind = describe(path).kind
    file, key = ("config.json", "_name_or_path") if kind == "projector" else (ADAPTER_CONFIG, "base_model_name_or_path")
    try:
        return read_json(str(find_file(path, file)), "a checkpoint's config").get(key)
    except (ValueError, AttributeError):
        return None  # only a hint in messages is lost


def weight_names(path: str) -> set[str]:
    """Names of all tensors of a full checkpoint; empty where its files are of no known kind."""
    index = next(filter(None, (find_file(path, name) for name in _INDEXES)), None)
    if index is not None:
        try:
            return set(read_json(index, "a list of weights")["weight_map"])
        except (KeyError, TypeError) as error:
            given = f"{index} is not a list of weights: {type(error).__name__} {str(error)[:100]}"
            raise Ego2ExoError(given, '{"weight_map": {name: file}}', "download it again") from error
    safetensors, pickled = (find_file(path, name) for name in _SINGLE)
    if safetensors is not None:
        from safetensors import safe_open

        with safe_open(safetensors, framework="pt") as handle:
            return set(handle.keys())
    with only_weights():
        return set(torch.load(pickled, map_location="meta")) if pickled else set()


def read_tensors(file: str, device: str = "cpu") -> dict[str, torch.Tensor]:
    """The tensors of a `.bin` file by name; `device` meta reads their shapes alone."""
    with only_weights():
        found = torch.load(file, map_location=device)
    if not isinstance(found, dict) or any(
        not isinstance(name, str) or not isinstance(value, torch.Tensor) for name, value in found.items()
    ):
        given = f"{file} is a {type(found).__name__} of other things than tensors by name"
        raise Ego2ExoError(given, "a dictionary of tensors", "copy or download it again")
    return found


def extra_weights(checkpoint: Checkpoint) -> dict[str, Any]:
    """The tensors that belong on top of the base's, beside LoRA, under the names they have in a plain LLaVA model."""
    if checkpoint.kind == "full":
        return {}
    name = LORA_EXTRAS if checkpoint.kind == "lora" else PROJECTOR
    found = find_file(checkpoint.path, name)
    if found is None:
        raise Ego2ExoError(
            f"{checkpoint.path} holds a LoRA adapter but no {name}",
            "adapter_model.safetensors, non_lora_trainables.bin and config.json in one folder",
            "take the folder that training wrote at its end, or a checkpoint-* of a run with this plugin",
        )
    weights = {name.removeprefix("base_model."): tensor for name, tensor in read_tensors(found).items()}
    doubled = any(name.startswith("model.model.") for name in weights)
    return {name.removeprefix("model.") if doubled else name: tensor for name, tensor in weights.items()}


def fingerprint(path: str, base: str | None = None) -> str:
    """32 hex digits that identify a model and its base by their content, cheap for fifteen gigabytes.

    They cover config and tokenizer files, and name, size and 16 spread blocks of 64 KiB of each weight file: training
    changes all of them. A local folder's name does not count; of a model on the hub, name and commit do.

    Raises:
        Ego2ExoError: one of them has no config.json, or a folder holds no weights.
    """
    parts: list[Any] = [_model(path), _model(base) if base else None, _tower(base or path), _tower(path)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _model(path: str) -> Any:
    if not Path(path).is_dir():
        from transformers.utils import cached_file
        from transformers.utils.hub import extract_commit_hash

        read_config(path)  # raises where it cannot be read
        return [path, str(extract_commit_hash(cached_file(path, "config.json"), None))]
    found = list(_hashes(Path(path)))
    if not any(sampled for _, sampled, _ in found):
        raise Ego2ExoError(
            f"{path} holds no weights", "a folder with *.safetensors or pytorch_model*.bin", "check the path"
        )
    return found


def _tower(path: str) -> Any:
    """The vision tower's hashes, where a config names a local folder."""
    tower = read_config(path).get("mm_vision_tower")
    return list(_hashes(Path(tower))) if isinstance(tower, str) and Path(tower).is_dir() else None


def _hashes(folder: Path) -> Iterator[tuple[str, bool, str]]:
    """(name, whether it is a weight file, hash), by name."""
    weights = {file for pattern in _WEIGHTS for file in folder.glob(pattern)}
    for file in sorted(weights | {file for pattern in _SMALL for file in folder.glob(pattern)}):
        if file.is_file():
            sampled = file in weights
            yield file.name, sampled, _sampled(file) if sampled else hashlib.sha256(file.read_bytes()).hexdigest()


def _sampled(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        for index in range(_SAMPLES):
            stream.seek(max(size - _BLOCK, 0) * index // (_SAMPLES - 1))
            digest.update(stream.read(_BLOCK))
    return digest.hexdigest()
