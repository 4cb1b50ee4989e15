"""Everything that can be known to fail before the first weight loads."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...common.files import require_writable
from ...common.processes import is_first
from ...config import PREFIX, Ego2ExoConfig, check_given, other_settings
from ...errors import Ego2ExoError, refuse
from ...registry import TRAINERS
from ...run_config import DistillConfig, ReadingConfig
from ...video import require_av
from ...video.limits import VideoLimits
from ..checkpoint.config import read_config, read_tokenizer, torch_dtype
from ..checkpoint.files import read_tensors, require_whole_model
from ..checkpoint.safety import require_whole_weights
from ..checkpoint.vocabulary import added_tokens
from ..fixes.data import SYSTEM
from ..fixes.trainer import adapter_only
from ..hooks import flavour
from ..model.projector import check_type
from ..model.vision import trained_tower
from ..resume.checkpoints import CheckpointScan
from ..resume.signature import check_resume, run_signature
from ..settings import Settings
from ..training.bottleneck import check_bottleneck
from ..training.dataset import has_teacher
from ..training.verification import require_choice
from .data import check_data
from .teacher import SampleCheck, check_distilling, require_alignment, require_own_loss
from .templates import PreprocessPreview, check_class, check_supervision, check_version, row_rules
from .tower import check_pooling, check_tower

_PREVIEWED = 256  # samples


@dataclass(frozen=True)
class CheckedRun:
    """A run that can start; `changed` are the flags that differ from those of the checkpoint that it resumes."""

    distilling: DistillConfig
    signature: dict[str, Any]
    scan: CheckpointScan
    changed: list[str]


def check_run(settings: Settings) -> CheckedRun:
    """Refuse a command line that cannot work.

    Raises:
        Ego2ExoError: with what was given, what is allowed, and what to do.
    """
    given = SimpleNamespace(**settings.values)
    blocks = [values.get(f"{PREFIX}block") for values in (settings.base, settings.values)]
    if settings.base.get("ego2exo") and blocks[0] != blocks[1]:  # whose other flags the inherited ones do not fit
        raise other_settings([f"{PREFIX}block: {blocks[0]} / {blocks[1]}"])
    check_given(settings.given, settings.values)
    flags = Ego2ExoConfig.from_object(given)
    base = settings["model_name_or_path"]
    if base is not None:
        require_whole_model(
            str(base), "--model_name_or_path", "to train it further, give {base} and --output_dir {run}"
        )
    read_config(base)
    require_writable(settings["output_dir"], "--output_dir", folder=True)
    require_whole_weights(base)
    check_class(settings)
    check_version(settings)
    _check_against_base(settings, flags)
    check_tower(settings, flags)
    check_pooling(settings)
    check_type(str(settings["mm_projector_type"]), flavour.original_projector_builder())
    _check_trained_parts(settings, flags)
    _check_bits(settings)
    torch_dtype(settings["vision_tower_dtype"], "--vision_tower_dtype")
    if settings["trainer_type"] is not None:
        TRAINERS.get(settings["trainer_type"])
    mode, adapter = settings["trainer_mode"], settings["pretrain_mm_mlp_adapter"]
    refuse(
        (settings["bf16"] and settings["fp16"], "--bf16 True with --fp16 True", "one of them", "leave --fp16 out"),
        (mode not in (None, "regular"), f"--trainer_mode {mode} with --ego2exo True", "regular", "leave it out"),
        (flags.attn == "flash" and not importlib.util.find_spec("flash_attn"),
         "--ego2exo_attn flash, and flash-attn is not installed", "auto, folded, sdpa", "use auto"),
        (adapter is not None and not Path(str(adapter)).is_file(), f"--pretrain_mm_mlp_adapter {adapter} is not a file",
         "an mm_projector.bin", "check the path"),
    )  # fmt: skip
    _check_numbers(settings)
    _check_reading(settings, given)
    _check_sharding(settings)
    if check_bottleneck(settings, flags, _deepspeed(settings["deepspeed"])).bottleneck:
        flags = replace(flags, visual_tokens=False)  # what the samples must do with
    distilling = check_distilling(settings)
    _check_vocabulary(settings)
    require_choice(settings["ego2exo_check_saved"])
    return _check_files(settings, flags, distilling)


def _check_files(settings: Settings, flags: Ego2ExoConfig, distilling: DistillConfig) -> CheckedRun:
    """Training file, stored answers and checkpoints; some samples as the student will read them."""
    extra = SampleCheck(settings, distilling) if distilling.on else None
    samples = check_data(settings, flags, extra, row_rules(settings))
    if any("video" in sample for sample in samples):
        require_av()
    if distilling.on and not any(map(has_teacher, samples)):
        raise Ego2ExoError(
            f"--{PREFIX}kd_weight {distilling.kd_weight}, and every sample of {settings['data_path']} is a replayed "
            "one, without a teacher",
            "samples with ego_video",
            "make them with `llava-ego2exo targets`, or train without the KL",
        )
    cached = distilling.on and distilling.kind == "cached"
    keys = {key for sample in samples for key in sample.get("answer_keys", ())} if cached else set()
    signature = run_signature(settings, distilling, keys)
    scan, changed = check_resume(settings, flags, distilling, signature)
    preview, some = PreprocessPreview(settings), samples[:: -(-len(samples) // _PREVIEWED)]
    check_supervision(settings, preview, _rehearsed(some, samples))
    if cached:
        text = require_alignment(str(distilling.answers), some, preview)
        if is_first():
            print(f"ego2exo: {text}", flush=True)  # noqa: T201
    return CheckedRun(distilling, signature, scan, changed)


def _rehearsed(some: list[dict[str, Any]], samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some samples and the first of each shape: LLaVA writes more turns, or a picture, by code of their own."""
    shapes = {(len(s["conversations"]), "image" in s, "video" in s, SYSTEM in s): s for s in reversed(samples)}
    return list({id(sample): sample for sample in (*some, *shapes.values())}.values())


def _check_sharding(settings: Settings) -> None:
    """Refuse what would hang or fail after the weights have loaded."""
    allowed, config, fsdp = "torchrun alone, or --deepspeed with ZeRO stage 2", settings["deepspeed"], settings["fsdp"]
    refuse(
        (fsdp, f"--fsdp {fsdp} with ego tokens: LLaVA cannot start a base with a vision tower that way", allowed,
         "leave --fsdp out"),
        (_zero_stage(_deepspeed(config)) == 3, f"--deepspeed {config} with ego tokens: with ZeRO stage 3 the processes "
         "hung, or the loss was not finite", allowed, "set zero_optimization.stage to 2 in that file"),
    )  # fmt: skip


def _zero_stage(config: dict[str, Any]) -> int:
    try:
        return int(config.get("zero_optimization", {}).get("stage", 0))
    except (ValueError, AttributeError, TypeError):
        return 0


def _deepspeed(config: Any) -> dict[str, Any]:
    """A DeepSpeed config, of a file or a dict; empty where it cannot be read, which DeepSpeed reports itself."""
    try:
        found = json.loads(Path(config).read_text()) if isinstance(config, (str, os.PathLike)) else config
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _check_against_base(settings: Settings, flags: Ego2ExoConfig) -> None:
    if not settings.base.get("ego2exo"):
        return
    refuse(
        ("ego2exo" in settings.given and not settings["ego2exo"],
         f"--ego2exo False, and {settings['model_name_or_path']} was trained with ego tokens",
         "--ego2exo True, or leave it out", "start from a checkpoint without ego tokens to train without them"),
    )  # fmt: skip
    lines = Ego2ExoConfig.from_object(SimpleNamespace(**settings.base)).differences(flags)
    if lines:
        raise other_settings(lines)


def _check_trained_parts(settings: Settings, flags: Ego2ExoConfig) -> None:
    parts = settings["mm_tunable_parts"]
    frozen = "--freeze_mm_mlp_adapter True" if settings["freeze_mm_mlp_adapter"] else None
    if parts is not None and "mm_mlp_adapter" not in parts.split(","):
        frozen = f"--mm_tunable_parts {parts}"
    refuse(
        (frozen and not settings.base.get("ego2exo"), f"{frozen} freezes the projector, and new ego tokens are in it",
         "mm_mlp_adapter among --mm_tunable_parts, --freeze_mm_mlp_adapter False",
         "add mm_mlp_adapter, or start from a checkpoint whose ego tokens are trained"),
    )  # fmt: skip
    tuned = "mm_vision_tower" in str(parts).split(",")
    if flags.states != "keep" and (tuned or settings["unfreeze_mm_vision_tower"]):
        raise trained_tower(flags.states, f"--mm_tunable_parts {parts}" if tuned else "--unfreeze_mm_vision_tower True")


def _check_bits(settings: Settings) -> None:
    bits, lora, kind = settings["bits"], settings["lora_enable"], settings["quant_type"]
    alone = settings["tune_mm_mlp_adapter"] or settings["mm_tunable_parts"] == "mm_mlp_adapter"
    install, bias = "pip install 'llava-ego2exo[qlora]'", settings["lora_bias"]
    missing = {name for name in ("peft", "bitsandbytes") if importlib.util.find_spec(name) is None}
    refuse(
        (lora and "peft" in missing, "--lora_enable True, and peft is not installed", "", install),
        (lora and bias not in ("none", "all"), f"--lora_bias {bias}: LLaVA cannot save such an adapter", "none, all",
         "leave it out for none"),
        (bits not in (4, 8, 16), f"--bits {bits}", "16, 8 or 4", "leave it out for 16"),
        (bits != 16 and "bitsandbytes" in missing, f"--bits {bits}, and bitsandbytes is not installed", "", install),
        (bits != 16 and not lora and not alone, f"--bits {bits} without LoRA: quantized weights cannot be trained",
         "--lora_enable True, or training the projector alone (--mm_tunable_parts mm_mlp_adapter)",
         "add --lora_enable True"),
        (bits != 16 and kind not in ("nf4", "fp4"), f"--quant_type {kind}", "nf4, fp4", "leave it out for nf4"),
    )  # fmt: skip


def _check_vocabulary(settings: Settings) -> None:
    """Tokens that LLaVA adds: one that no file keeps, and what it wants of a projector file for the others."""
    base, version, file = settings["model_name_or_path"], settings["version"], settings["pretrain_mm_mlp_adapter"]
    alone = settings["lora_enable"] or adapter_only(SimpleNamespace(**settings.values))
    refuse(
        (settings["tune_mm_mlp_adapter"] and settings["mm_use_im_start_end"],
         "--tune_mm_mlp_adapter True with --mm_use_im_start_end True: LLaVA's models do not run with both",
         "one of them", "--mm_use_im_start_end False"),
        (alone and version == "v0" and read_tokenizer(base).pad_token is None,
         f"--version v0: LLaVA would add a token [PAD] to the vocabulary of {base}, which a LoRA or projector folder "
         "does not keep", "a template that adds none, or training the whole model", "give another --version, as v1"),
    )  # fmt: skip
    if file is None or not settings["mm_use_im_start_end"]:
        return
    rows = read_tensors(str(file), "meta").get("model.embed_tokens.weight")
    known = set(read_tokenizer(base).get_vocab())
    new = [token for token in added_tokens({"mm_use_im_start_end": True}) if token not in known]
    sizes = (len(new), len(known.union(added_tokens(settings.values))))
    if len(new) != 2 or rows is None or len(rows) not in sizes:
        held = "no embeddings" if rows is None else f"{len(rows)} embeddings"
        raise Ego2ExoError(
            f"--pretrain_mm_mlp_adapter {file} with --mm_use_im_start_end True: the file holds {held}, and the "
            f"tokenizer of {base} lacks {len(new)} of 2 tokens",
            "a projector that was trained with --mm_use_im_start_end True, from a base without its tokens",
            "--mm_use_im_start_end False, or leave the projector file out",
        )


# Least values; below them LLaVA loads the model and dies at the first sample or step.
_LEAST = {
    "video_fps": 1, "frames_upbound": 0, "model_max_length": 1, "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1, "dataloader_num_workers": 0, "lora_r": 1, "learning_rate": 0,
    "mm_projector_lr": 0, "mm_vision_tower_lr": 0, "weight_decay": 0, "mm_spatial_pool_stride": 1, "seed": 0,
}  # fmt: skip


def _check_numbers(settings: Settings) -> None:
    # Turned round, so that nan is refused too.
    low = {name: least for name, least in _LEAST.items() if settings[name] is not None and not settings[name] >= least}
    refuse(
        *((True, f"--{name} {settings[name]}", f"{least} or more", "") for name, least in low.items()),
        (not (settings["max_steps"] or 0) > 0 and not settings["num_train_epochs"] > 0,
         f"--num_train_epochs {settings['num_train_epochs']}, which trains nothing", "more than 0, or --max_steps", ""),
        (settings["force_sample"] and not settings["frames_upbound"], "--force_sample True with --frames_upbound 0",
         "--frames_upbound 1 or more, which is then the number of frames of every clip", "give it, or leave it out"),
    )  # fmt: skip


def check_frame_cache(settings: Settings) -> ReadingConfig:
    """The flags of reading, which runs without ego tokens have for their cache of frames.

    Raises:
        Ego2ExoError: one is out of range, or the cache's folder cannot be written.
    """
    flags, cache = ReadingConfig.from_object(SimpleNamespace(**settings.values)), f"--{PREFIX}frame_cache"
    if flags.frame_cache is not None:
        require_writable(flags.frame_cache, cache, folder=True)
    elif f"{PREFIX}frame_cache_gb" in settings.given:
        raise Ego2ExoError(f"{cache}_gb without {cache}", "both, or neither", f"add {cache} DIR, or leave it out")
    return flags


def _check_reading(settings: Settings, given: SimpleNamespace) -> None:
    """Flags of reading clips, and whether unreadable ones can be counted."""
    flags = check_frame_cache(settings)
    VideoLimits.from_object(given, PREFIX)
    if flags.max_bad:
        require_own_loss(settings, f"--{PREFIX}max_bad {flags.max_bad}", "skipped samples would not be counted")
