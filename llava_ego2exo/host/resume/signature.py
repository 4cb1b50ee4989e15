"""A run's signature: its flags, data, base weights and teacher. A checkpoint with another signature is not resumed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...common.files import file_hash
from ...config import PREFIX, Ego2ExoConfig
from ...errors import Ego2ExoError, refuse
from ...run_config import DistillConfig
from ...video.limits import VideoLimits
from ..checkpoint.config import read_config
from ..checkpoint.files import LORA_EXTRAS, PROJECTOR, fingerprint
from ..fixes.trainer import adapter_only
from ..settings import Settings, data_files
from ..training.stored_answers import file_of
from .checkpoints import CheckpointScan, read_manifest, scan

_TEACHER = tuple(PREFIX + name for name in ("teacher", "teacher_base", "answers"))  # compared by its content
# Which samples come when, and what is trained: with another value a checkpoint is no step of this run.
_PLACE = (
    "seed", "data_seed", "per_device_train_batch_size", "gradient_accumulation_steps", "dataloader_drop_last",
    "group_by_length", "group_by_modality_length", "group_by_modality_length_auto", "group_by_varlen",
    "lora_enable", "lora_r", "lora_alpha", "lora_dropout", "lora_bias", "bits", "quant_type", "double_quant",
    "mm_tunable_parts", "tune_mm_mlp_adapter", "mm_use_im_patch_token", "mm_use_im_start_end",
    "optim", f"{PREFIX}bottleneck", *(flag for flag in DistillConfig().to_dict() if flag not in _TEACHER),
)  # fmt: skip
_LENGTH = ("max_steps", "num_train_epochs")  # where a bottleneck is a share of it: a longer run would go back into one
# What changes no number, or is compared by its content.
_FREE = {
    "output_dir", "overwrite_output_dir", "data_path", "video_folder", "image_folder", "model_name_or_path",
    "report_to", "run_name", "disable_tqdm", "local_rank", "log_level", "log_level_replica", "log_on_each_node",
    "cache_dir", "verbose_logging", "resume_from_checkpoint", "skip_memory_metrics", "ignore_data_skip",
    *_TEACHER, *(PREFIX + name for name in ("check_saved", "preset", "frame_cache", "frame_cache_gb")),
    *VideoLimits().to_dict(PREFIX),
}  # fmt: skip
_FREE_BEGINNINGS = ("logging_", "save_", "dataloader_num", "dataloader_p", "eval_", "push_to_hub", "hub_", "ddp_")
_SAMPLED = 16


def run_signature(settings: Settings, distilling: DistillConfig, keys: Iterable[str] = ()) -> dict[str, Any]:
    """A run's signature, as a checkpoint keeps it.

    Args:
        settings: the run's.
        distilling: how it distils.
        keys: of the stored answers that its samples name.

    Raises:
        Ego2ExoError: the base or the teacher holds no weights.
    """
    data = [file_hash(file.path) + file.sampling.removeprefix("all") for file in data_files(settings)]
    return {
        "flags": _plain(settings.values),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "data": _short("".join(data).encode()),
        "base": fingerprint(str(settings["model_name_or_path"])),
        "teacher": _teacher(distilling, keys),
    }


def _teacher(distilling: DistillConfig, keys: Iterable[str]) -> str | None:
    """Of stored answers: their keys and sizes, and the bytes of up to 16 of them."""
    if not distilling.on or distilling.kind == "self":  # the base, which has its own line
        return None
    if distilling.kind == "path":
        return fingerprint(distilling.teacher, distilling.teacher_base)
    files = [file_of(str(distilling.answers), key) for key in sorted(set(keys))]
    parts: list[Any] = [[file.name, file.stat().st_size] for file in files]
    parts += [file_hash(str(file)) for file in files[:: max(1, -(-len(files) // _SAMPLED))]]
    return _short(json.dumps(parts).encode())


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flags as JSON keeps them."""
    found = {name: None if value is MISSING else getattr(value, "value", value) for name, value in values.items()}
    simple = (str, int, float, bool, type(None))
    return {name: value if isinstance(value, simple) else str(value) for name, value in sorted(found.items())}


def differences(old: dict[str, Any], new: dict[str, Any], defaults: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What differs between a checkpoint's run and this one, as ``name: checkpoint's / now`` lines.

    A flag that the checkpoint lacks was made later, and counts as its default. One that this run lacks is the other
    LLaVA's, and must have been off.

    Returns:
        What makes it another run; what may change when a run is resumed.
    """
    now, stored = new["flags"], old.get("flags", {})
    before = {name: stored.get(name, defaults.get(name)) for name in now}
    length = _LENGTH if now.get(f"{PREFIX}bottleneck") else ()
    names = [name for name in ("ego2exo", *Ego2ExoConfig().to_dict(), *_PLACE, *length) if name in now]
    other = [_line(name, before[name], now[name]) for name in names if before[name] != now[name]]
    other += [_line(name, stored[name], "no such flag") for name in _PLACE if name not in now and stored.get(name)]
    kinds = [_kind(flags) for flags in (before, now)]
    if kinds[0] != kinds[1]:
        other.append(_line(f"{PREFIX}teacher", *kinds))
    place = now.get(f"{PREFIX}{'answers' if kinds[1] == 'cached' else 'teacher'}")
    contents = (
        ("processes", "number of processes"),
        ("data", f"content of --data_path {now.get('data_path')}"),
        ("base", f"weights of --model_name_or_path {now.get('model_name_or_path')}"),
        ("teacher", f"teacher's content ({place})"),
    )
    other += [_line(text, old.get(key), new[key]) for key, text in contents if old.get(key) != new[key]]
    rest = [name for name in sorted(now.keys() - set(names) - _FREE) if not name.startswith(_FREE_BEGINNINGS)]
    changed = [_line(name, before[name], now[name]) for name in rest if before[name] != now[name]]
    return other, changed


def _line(name: str, old: Any, new: Any) -> str:
    return f"{name}: {old} / {new}"


def _kind(flags: dict[str, Any]) -> str:
    teacher = str(flags.get(f"{PREFIX}teacher", "self"))
    return teacher if teacher in ("self", "cached") else "path"


def check_resume(
    settings: Settings, flags: Ego2ExoConfig, distilling: DistillConfig, signature: dict[str, Any]
) -> tuple[CheckpointScan, list[str]]:
    """Find the checkpoint that LLaVA will resume: a complete one, the newest, and of this run.

    Returns:
        The checkpoints in the output folder; changed flags that a resumed run may have, as text.

    Raises:
        Ego2ExoError: no checkpoint is complete, or the last one is of another run; names what differs.
    """
    alone = adapter_only(SimpleNamespace(**settings.values))
    lora = ("adapter_config.json", LORA_EXTRAS) if settings["lora_enable"] else ()
    found = scan(settings["output_dir"], lora or ((PROJECTOR,) if alone else ()))
    if found.last is None:
        if found.damaged:
            path, reason = found.damaged[-1]
            raise Ego2ExoError(
                f"{path} cannot be resumed: {reason}; no other checkpoint in {path.parent} is complete",
                "a complete checkpoint-N, or none",
                "put the file back, or remove the checkpoint to start from step 0",
            )
        return found, []
    manifest = read_manifest(found.last)
    run = {} if manifest is None else manifest["run"]
    if run:
        lines, changed = differences(run, signature, _plain(settings.defaults))
    else:
        lines, changed = _config_differences(found.last, flags, distilling), []
    refuse(
        (run.get("flags", {}).get("save_only_model"),
         f"{found.last} holds weights without the optimizer's state (--save_only_model True) and cannot be resumed",
         "a checkpoint with its optimizer", "give another --output_dir, or start from the merged checkpoint"),
        (lines, f"{found.last} would be resumed, but was made with other flags or files (checkpoint / now): "
         f"{'; '.join(lines)}", "the flags and files it was made with", "use them, or another --output_dir"),
    )  # fmt: skip
    return found, changed


def _config_differences(checkpoint: Path, flags: Ego2ExoConfig, distilling: DistillConfig) -> list[str]:
    """What differs, of a checkpoint without a manifest: LLaVA wrote it without this plugin's trainer."""
    if not (checkpoint / "config.json").is_file():
        return []
    config = read_config(str(checkpoint))
    source = SimpleNamespace(**config)
    stored = Ego2ExoConfig.from_object(source)
    lines = stored.differences(flags) if config.get("ego2exo") else ["ego2exo: False / True"]
    return lines + DistillConfig.from_object(source).differences(distilling)
