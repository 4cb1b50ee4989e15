"""Everything that can be known to fail before the first weight loads."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...common.files import require_writable
from ...common.processes import is_first
from ...config import PREFIX, DistillConfig, Ego2ExoConfig, ReadingConfig, other_settings
from ...errors import Ego2ExoError, refuse
from ...registry import TRAINERS
from ...video import require_decoders
from ...video.limits import VideoLimits
from ..checkpoint.config import read_config
from ..checkpoint.safety import check_base_code, check_tower_code, require_whole_weights
from ..fixes.trainer import adapter_only
from ..hooks import flavour
from ..model.projector import check_type
from ..model.vision import trained_tower
from ..resume.checkpoints import CheckpointScan
from ..resume.signature import check_resume, run_signature
from ..settings import Settings
from ..training.verification import require_choice
from .data import check_data
from .processes import check_sharding, require_own_loss
from .teacher import SampleCheck, check_distilling, require_alignment
from .templates import PreprocessPreview, check_class, check_supervision, check_version, student_tokenizer

_PREVIEWED = 256  # samples


@dataclass(frozen=True)
class CheckedRun:
    """A run that can start.

    Args:
        distilling: how it distils.
        signature: what makes it this run.
        scan: the checkpoints in its output folder.
        changed: flags that differ from those of the checkpoint that it resumes, as text.
    """

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
    flags = Ego2ExoConfig.from_object(given)
    base = settings["model_name_or_path"]
    read_config(base)
    require_writable(settings["output_dir"], "--output_dir", folder=True)
    check_base_code(base)
    require_whole_weights(base)
    check_class(settings)
    check_version(settings)
    _check_against_base(settings, flags)
    _check_tower(settings, flags)
    check_type(str(settings["mm_projector_type"]), flavour.original_projector_builder())
    _check_trained_parts(settings, flags)
    _check_bits(settings)
    if settings["trainer_type"] is not None:
        TRAINERS.get(settings["trainer_type"])
    mode, adapter = settings["trainer_mode"], settings["pretrain_mm_mlp_adapter"]
    refuse(
        (mode not in (None, "regular"), f"--trainer_mode {mode} with --ego2exo True", "regular", "leave it out"),
        (flags.attn == "flash" and not importlib.util.find_spec("flash_attn"),
         "--ego2exo_attn flash, and flash-attn is not installed", "auto, folded, sdpa", "use auto"),
        (adapter is not None and not Path(str(adapter)).is_file(), f"--pretrain_mm_mlp_adapter {adapter} is not a file",
         "an mm_projector.bin", "check the path"),
    )  # fmt: skip
    _check_reading(settings, given)
    check_sharding(settings)
    distilling = check_distilling(settings)
    _check_vocabulary(settings, whole=not settings["lora_enable"] and not adapter_only(given))
    require_choice(settings["ego2exo_check_saved"])
    return _check_files(settings, flags, distilling)


def _check_files(settings: Settings, flags: Ego2ExoConfig, distilling: DistillConfig) -> CheckedRun:
    """Training file, stored answers and checkpoints; some samples as the student will read them."""
    cached = distilling.on and distilling.kind == "cached"
    extra = SampleCheck(settings, distilling) if distilling.on else None
    samples = check_data(settings, flags, extra)
    if any("video" in sample for sample in samples):
        require_decoders()
    if extra is not None:
        extra.finish()
    keys = {key for sample in samples for key in sample.get("answer_keys", ())} if cached else set()
    signature = run_signature(settings, distilling, keys)
    scan, changed = check_resume(settings, flags, distilling, signature)
    preview, some = PreprocessPreview(settings), samples[:: -(-len(samples) // _PREVIEWED)]
    check_supervision(settings, preview, some)
    if cached:
        text = require_alignment(str(distilling.answers), some, preview)
        if is_first():
            print(f"ego2exo: {text}", flush=True)  # noqa: T201
    return CheckedRun(distilling, signature, scan, changed)


def _check_against_base(settings: Settings, flags: Ego2ExoConfig) -> None:
    if not settings.base.get("ego2exo"):
        return
    if "ego2exo" in settings.given and not settings["ego2exo"]:
        raise Ego2ExoError(
            f"--ego2exo False, and {settings['model_name_or_path']} was trained with ego tokens",
            "--ego2exo True, or leave it out",
            "start from a checkpoint without ego tokens to train without them",
        )
    lines = Ego2ExoConfig.from_object(SimpleNamespace(**settings.base)).differences(flags)
    if lines:
        raise other_settings(lines)


def _check_tower(settings: Settings, flags: Ego2ExoConfig) -> None:
    name, s2 = settings["vision_tower"], settings["s2"]
    other = str(name) == "imagebind_huge" or str(name).startswith("open_clip_hub")
    refuse(
        (name is None, "--ego2exo True, and neither --vision_tower nor the base checkpoint names a vision tower",
         "a CLIP, SigLIP or MLCD tower", "pass --vision_tower, as LLaVA needs it to train with images"),
        (s2 or other, f"{'--s2 True' if s2 else f'--vision_tower {name}'}: this tower does not expose the layers of "
         "whole frames", "CLIP, SigLIP, MLCD, hf:", "take another tower"),
    )  # fmt: skip
    check_tower_code(name)
    require_whole_weights(name.removeprefix("hf:"))
    vision = read_config(name.removeprefix("hf:"))
    vision = vision.get("vision_config", vision)
    layers = vision.get("num_hidden_layers")
    if isinstance(layers, int):
        # LLaVA-NeXT removes SigLIP's last layer after loading it.
        flags.layer_indices(layers - ("siglip" in str(vision.get("model_type", name))))


def _check_trained_parts(settings: Settings, flags: Ego2ExoConfig) -> None:
    parts = settings["mm_tunable_parts"]
    frozen = "--freeze_mm_mlp_adapter True" if settings["freeze_mm_mlp_adapter"] else None
    if parts is not None and "mm_mlp_adapter" not in parts.split(","):
        frozen = f"--mm_tunable_parts {parts}"
    if frozen and not settings.base.get("ego2exo"):
        raise Ego2ExoError(
            f"{frozen} freezes the projector, and new ego tokens live in it",
            "mm_mlp_adapter among --mm_tunable_parts, --freeze_mm_mlp_adapter False",
            "add mm_mlp_adapter, or start from a checkpoint whose ego tokens are trained",
        )
    tuned = "mm_vision_tower" in str(parts).split(",")
    if flags.states != "keep" and (tuned or settings["unfreeze_mm_vision_tower"]):
        raise trained_tower(flags.states, f"--mm_tunable_parts {parts}" if tuned else "--unfreeze_mm_vision_tower True")


def _check_bits(settings: Settings) -> None:
    bits, lora, kind = settings["bits"], settings["lora_enable"], settings["quant_type"]
    alone = settings["tune_mm_mlp_adapter"] or settings["mm_tunable_parts"] == "mm_mlp_adapter"
    install = "pip install 'llava-ego2exo[qlora]'"
    missing = {name for name in ("peft", "bitsandbytes") if importlib.util.find_spec(name) is None}
    refuse(
        (lora and "peft" in missing, "--lora_enable True, and peft is not installed", "", install),
        (bits not in (4, 8, 16), f"--bits {bits}", "16, 8 or 4", "leave it out for 16"),
        (bits != 16 and "bitsandbytes" in missing, f"--bits {bits}, and bitsandbytes is not installed", "", install),
        (bits != 16 and not lora and not alone, f"--bits {bits} without LoRA: quantized weights cannot be trained",
         "--lora_enable True, or training the projector alone (--mm_tunable_parts mm_mlp_adapter)",
         "add --lora_enable True"),
        (bits != 16 and kind not in ("nf4", "fp4"), f"--quant_type {kind}", "nf4, fp4", "leave it out for nf4"),
    )  # fmt: skip


def _check_vocabulary(settings: Settings, whole: bool) -> None:
    """LLaVA adds tokens and resizes the embeddings, which neither an adapter nor a projector file keeps."""
    from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN

    added = {
        "mm_use_im_patch_token": [DEFAULT_IMAGE_PATCH_TOKEN],
        "mm_use_im_start_end": [DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN],
    }
    flags, size = [flag for flag in added if settings[flag]], settings.base.get("vocab_size")
    if whole or not flags or size is None:
        return
    words = student_tokenizer(settings).get_vocab().keys() | {word for flag in flags for word in added[flag]}
    if len(words) != size:
        raise Ego2ExoError(
            f"{' and '.join(f'--{flag} True' for flag in flags)}: LLaVA would resize the vocabulary of "
            f"{settings['model_name_or_path']} from {size} to {len(words)} tokens, and a LoRA or projector folder does "
            "not keep the new embeddings",
            "a base that has these tokens already, or training the whole model",
            " ".join(f"--{flag} False" for flag in flags),
        )


def _check_reading(settings: Settings, given: SimpleNamespace) -> None:
    """Flags of reading clips, and whether unreadable ones can be counted."""
    flags, cache = ReadingConfig.from_object(given), f"--{PREFIX}frame_cache"
    VideoLimits.from_object(given, PREFIX)
    if flags.frame_cache is not None:
        require_writable(flags.frame_cache, cache, folder=True)
    elif f"{PREFIX}frame_cache_gb" in settings.given:
        raise Ego2ExoError(f"{cache}_gb without {cache}", "both, or neither", f"add {cache} DIR, or leave it out")
    if flags.max_bad:
        require_own_loss(settings, f"--{PREFIX}max_bad {flags.max_bad}", "skipped samples would not be counted")
