"""What lies in a folder that LLaVA or this plugin saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...common.json_io import read_json
from ...errors import Ego2ExoError
from .config import read_config

LORA_EXTRAS = "non_lora_trainables.bin"
PROJECTOR = "mm_projector.bin"
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint by its files: `full`, `lora` (adapter with extras) or `projector` (adapter alone).

    Args:
        path: folder, or hub name (taken as full unless files say otherwise).
        kind: see above.
    """

    path: str
    kind: str

    @property
    def extras_file(self) -> str | None:
        """Weights that belong on top of the base's, beside LoRA."""
        return {"lora": LORA_EXTRAS, "projector": PROJECTOR}.get(self.kind)


def describe(path: str) -> Checkpoint:
    """Tell a checkpoint's kind from its files, never from letters in its name."""
    if _file(path, "adapter_config.json"):
        return Checkpoint(path, "lora")
    if any(_file(path, name) for name in (*_INDEXES, *_SINGLE)):
        return Checkpoint(path, "full")
    return Checkpoint(path, "projector" if _file(path, PROJECTOR) else "full")


def _file(path: str, name: str) -> str | None:
    """Where a checkpoint's file lies, fetched from the hub if need be; None where there is none."""
    from transformers.utils import cached_file

    if Path(path).is_dir():
        return str(Path(path, name)) if Path(path, name).is_file() else None
    try:
        return cached_file(
            path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
    except OSError:
        return None


def weight_names(path: str) -> set[str]:
    """Names of all tensors of a full checkpoint; empty where its files are of no known kind.

    Raises:
        Ego2ExoError: a file is damaged.
    """
    for name in _INDEXES:
        found = _file(path, name)
        if found:
            return _index_names(found)
    found = _file(path, _SINGLE[0])
    if found:
        from safetensors import safe_open

        with safe_open(found, framework="pt") as handle:
            return set(handle.keys())
    found = _file(path, _SINGLE[1])
    from .safety import only_weights

    with only_weights():
        return set(torch.load(found, map_location="meta")) if found else set()


def _index_names(file: str) -> set[str]:
    try:
        return set(read_json(file, "a list of weights")["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, Ego2ExoError):
            raise
        given = f"{file} is no list of weights: {type(error).__name__} {str(error)[:100]}"
        raise Ego2ExoError(given, '{"weight_map": {name: file}}', "get it anew") from error


def extra_weights(checkpoint: Checkpoint) -> dict[str, Any]:
    """The tensors beside LoRA, under the names they have in a plain LLaVA model.

    Raises:
        Ego2ExoError: the file is missing.
    """
    if checkpoint.extras_file is None:
        return {}
    found = _file(checkpoint.path, checkpoint.extras_file)
    if found is None:
        raise Ego2ExoError(
            f"{checkpoint.path} holds a LoRA adapter but no {checkpoint.extras_file}",
            "adapter_model.safetensors, non_lora_trainables.bin and config.json in one folder",
            "take the folder that training wrote at its end, or a checkpoint-* of a run with this plugin",
        )
    from .safety import only_weights

    with only_weights():
        weights = torch.load(found, map_location="cpu")
    weights = {name.removeprefix("base_model."): tensor for name, tensor in weights.items()}
    doubled = any(name.startswith("model.model.") for name in weights)
    return {name.removeprefix("model.") if doubled else name: tensor for name, tensor in weights.items()}


# Which model a checkpoint is: a name from its content, cheap for fifteen gigabytes.

_PATTERNS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*", "non_lora_trainables.bin", "mm_projector.bin")
_WHOLE = ("config.json", "generation_config.json", "adapter_config.json", "tokenizer*", "vocab*", "merges.txt",
          "added_tokens.json", "special_tokens_map.json", "preprocessor_config.json", "*.index.json")  # fmt: skip
_BLOCK, _SAMPLES = 1 << 16, 16


def fingerprint(path: str, base: str | None = None) -> str:
    """32 hex digits from configs, tokenizer, and names, sizes and samples of the weights, of a model and its base.

    A local folder's name does not count, so a copy has the same fingerprint; of a model on the hub, name and commit
    count. Of each weight file size and 16 blocks of 64 KiB spread over it are read: training changes all of them.

    Args:
        path: folder or hub name of the checkpoint.
        base: what it was trained from, where it holds no whole model.

    Raises:
        Ego2ExoError: one of them has no config.json, or a folder holds no weights.
    """
    parts: list[Any] = [_model(path), _model(base) if base else None, _tower(base or path), _tower(path)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _model(path: str) -> Any:
    if not Path(path).is_dir():
        return [path, _commit(path)]
    found = list(_files(Path(path)))
    if not any(sampled for _, sampled, _ in found):
        raise Ego2ExoError(
            f"{path} holds no weights", "a folder with *.safetensors or pytorch_model*.bin", "check the path"
        )
    return found


def _commit(name: str) -> str:
    from transformers.utils import cached_file
    from transformers.utils.hub import extract_commit_hash

    read_config(name)  # says so where it cannot be had
    return str(extract_commit_hash(cached_file(name, "config.json"), None))


def _tower(path: str) -> Any:
    """The vision tower's weights, where a config points to another folder of this machine."""
    tower = read_config(path).get("mm_vision_tower")
    return list(_files(Path(tower))) if isinstance(tower, str) and Path(tower).is_dir() else None


def _files(folder: Path) -> Iterator[tuple[str, bool, str]]:
    """(name, whether it is a weight file, hash), by name."""
    weights = {file for pattern in _PATTERNS for file in folder.glob(pattern)}
    whole = {file for pattern in _WHOLE for file in folder.glob(pattern)} - weights
    for file in sorted(weights | whole):
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
