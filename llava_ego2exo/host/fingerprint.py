"""Which model a checkpoint is: a name from its content, cheap for fifteen gigabytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import Ego2ExoError
from .config_file import read_config

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
