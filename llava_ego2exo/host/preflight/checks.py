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
from ...errors import Ego2ExoError
from ...registry import TRAINERS
from ...video import require_decoders
from ...video.limits import VideoLimits
from ..checkpoint.config import read_config
from ..checkpoint.safety import check_base_code, check_tower_code, require_whole_weights
from ..fixes.trainer import adapter_only
from ..hooks import flavour
from ..model.projector import check_type
from ..model.vision import trained_tower
from ..resume.checkpoints import Found
from ..resume.signature import check_resume, run_identity
from ..settings.command_line import Settings
from ..training.verification import require_choice
from .base_class import check_class
from .data import check_data
from .sharding import check_sharding
from .teacher import SampleCheck, check_distilling, data_parallel
from .templates import Rehearsal, Spread, check_lessons, check_version, student_tokenizer

# What can be known beforehand of how a run will read its clips.


def check_reading(settings: Settings) -> None:
    """Refuse flags of reading that no run, or not this one, can use.

    Raises:
        Ego2ExoError: naming the flag.
    """
    given = SimpleNamespace(**settings.values)
    flags = ReadingConfig.from_object(given)
    VideoLimits.from_object(given, PREFIX)
    cache = f"--{PREFIX}frame_cache"
    if flags.frame_cache is not None:
        require_writable(flags.frame_cache, cache, folder=True)
    elif f"{PREFIX}frame_cache_gb" in settings.given:
        raise Ego2ExoError(f"{cache}_gb without {cache}", "both, or neither", f"add {cache} DIR, or leave it out")
    if flags.max_bad:
        _check_counting(settings, flags.max_bad)


def _check_counting(settings: Settings, most: int) -> None:
    """Samples that are left out are counted by our trainer, which must see batches whole."""
    trainer, smoothing = settings["trainer_type"], settings["label_smoothing_factor"]
    cases = (
        (trainer not in (None, "ego2exo"), f"--trainer_type {trainer}", "leave it out"),
        (smoothing, f"--label_smoothing_factor {smoothing}", "leave it out"),
        (data_parallel(settings), "several GPUs in one process", "start with torchrun, or show one GPU"),
    )
    for wrong, other, remedy in cases:
        if wrong:
            raise Ego2ExoError(
                f"--{PREFIX}max_bad {most} with {other}: samples that are left out would not be counted",
                f"--{PREFIX}max_bad 0 there",
                remedy,
            )


@dataclass(frozen=True)
class Checked:
    """A run that can begin.

    Args:
        distilling: how it distils.
        identity: what makes it this run.
        found: the checkpoints in its output folder.
        changed: flags by which it differs from the checkpoint that it goes on from, in words.
    """

    distilling: DistillConfig
    identity: dict[str, Any]
    found: Found
    changed: list[str]


def check_run(settings: Settings) -> Checked:
    """Refuse a command line that cannot work.

    Returns:
        What the run needs to know to begin.

    Raises:
        Ego2ExoError: with what was given, what is allowed, and what to do.
    """
    flags = Ego2ExoConfig.from_object(_Attributes(settings.values))
    read_config(settings["model_name_or_path"])
    require_writable(settings["output_dir"], "--output_dir", folder=True)
    check_base_code(settings["model_name_or_path"])
    require_whole_weights(settings["model_name_or_path"])
    check_class(settings)
    check_version(settings)
    _check_against_base(settings, flags)
    _check_tower(settings, flags)
    check_type(str(settings["mm_projector_type"]), flavour.original_projector_builder())
    _check_parts(settings)
    _check_states(settings, flags)
    _check_bits(settings)
    _check_vocabulary(settings)
    if settings["trainer_type"] is not None:
        TRAINERS.get(settings["trainer_type"])
    if settings["trainer_mode"] not in (None, "regular"):
        raise Ego2ExoError(f"--trainer_mode {settings['trainer_mode']} with --ego2exo True", "regular", "leave it out")
    if flags.attn == "flash" and importlib.util.find_spec("flash_attn") is None:
        raise Ego2ExoError("--ego2exo_attn flash, and flash-attn is not installed", "auto, folded, sdpa", "use auto")
    adapter = settings["pretrain_mm_mlp_adapter"]
    if adapter is not None and not Path(adapter).is_file():
        raise Ego2ExoError(f"--pretrain_mm_mlp_adapter {adapter} is no file", "an mm_projector.bin")
    check_reading(settings)
    distilling = check_distilling(settings)
    check_sharding(settings)
    require_choice(settings["ego2exo_check_saved"])
    samples = SampleCheck(settings, distilling) if distilling.on else None
    looked, keys, videos = Spread(), set(), False

    def see(sample: dict[str, Any]) -> None:
        nonlocal videos
        videos = videos or "video" in sample
        looked.add(sample)
        keys.update(sample.get("answer_keys", ()) if distilling.on and distilling.kind == "cached" else ())

    check_data(settings, flags, samples, see)
    if videos:
        require_decoders()
    if samples is not None:
        samples.finish()
    identity = run_identity(settings, distilling, keys)
    found, changed = check_resume(settings, flags, distilling, identity)
    _rehearse(settings, distilling, looked.kept)
    return Checked(distilling, identity, found, changed)


def _rehearse(settings: Settings, distilling: DistillConfig, samples: list[dict[str, Any]]) -> None:
    rehearsal = Rehearsal(settings)
    check_lessons(settings, rehearsal, samples)
    if distilling.on and distilling.kind == "cached":
        from .teacher import require_found

        text = require_found(str(distilling.answers), samples, rehearsal)
        if is_first():
            print(f"ego2exo: {text}", flush=True)  # noqa: T201


class _Attributes:
    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


def _check_against_base(settings: Settings, flags: Ego2ExoConfig) -> None:
    base = settings.base
    if not base.get("ego2exo"):
        return
    if "ego2exo" in settings.given and not settings["ego2exo"]:
        raise Ego2ExoError(
            f"--ego2exo False, and {settings['model_name_or_path']} was trained with ego tokens",
            "--ego2exo True, or leave it out",
            "start from a checkpoint without ego tokens to train without them",
        )
    lines = Ego2ExoConfig.from_object(_Attributes(base)).differences(flags)
    if lines:
        raise other_settings(lines)


def _check_tower(settings: Settings, flags: Ego2ExoConfig) -> None:
    name = settings["vision_tower"]
    if name is None:
        raise Ego2ExoError(
            "--ego2exo True without a vision tower: neither --vision_tower nor the base checkpoint names one",
            "a CLIP, SigLIP or MLCD tower",
            "pass --vision_tower, as LLaVA needs it to train with pictures",
        )
    if settings["s2"] or name == "imagebind_huge" or name.startswith("open_clip_hub"):
        kind = "--s2 True" if settings["s2"] else f"--vision_tower {name}"
        raise Ego2ExoError(f"{kind}: this tower does not expose the layers of whole frames", "CLIP, SigLIP, MLCD, hf:")
    check_tower_code(name)
    require_whole_weights(name.removeprefix("hf:"))
    vision = read_config(name.removeprefix("hf:"))
    vision = vision.get("vision_config", vision)
    layers = vision.get("num_hidden_layers")
    if isinstance(layers, int):
        # LLaVA-NeXT removes SigLIP's last layer after loading it.
        flags.layer_indices(layers - ("siglip" in str(vision.get("model_type", name))))


def _check_parts(settings: Settings) -> None:
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


def _check_states(settings: Settings, flags: Ego2ExoConfig) -> None:
    tuned = "mm_vision_tower" in str(settings["mm_tunable_parts"]).split(",")
    if flags.states != "keep" and (tuned or settings["unfreeze_mm_vision_tower"]):
        given = f"--mm_tunable_parts {settings['mm_tunable_parts']}" if tuned else "--unfreeze_mm_vision_tower True"
        raise trained_tower(flags.states, given)


def _check_vocabulary(settings: Settings) -> None:
    """LLaVA adds tokens and resizes the embeddings, which neither an adapter nor a projector file keeps."""
    from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN

    added = {
        "mm_use_im_patch_token": [DEFAULT_IMAGE_PATCH_TOKEN],
        "mm_use_im_start_end": [DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN],
    }
    flags = [flag for flag in added if settings[flag]]
    size = settings.base.get("vocab_size")
    whole = not settings["lora_enable"] and not adapter_only(SimpleNamespace(**settings.values))
    if not flags or size is None or whole:
        return
    vocabulary = student_tokenizer(settings).get_vocab()
    resized = len(vocabulary.keys() | {word for flag in flags for word in added[flag]})
    if resized != size:
        raise Ego2ExoError(
            f"{' and '.join(f'--{flag} True' for flag in flags)}: LLaVA would resize the vocabulary of "
            f"{settings['model_name_or_path']} from {size} to {resized} tokens, and a LoRA or projector folder does "
            "not keep the new embeddings",
            "a base that has these tokens already, or training the whole model",
            " ".join(f"--{flag} False" for flag in flags),
        )


def _check_bits(settings: Settings) -> None:
    bits, parts = settings["bits"], settings["mm_tunable_parts"]
    if settings["lora_enable"] and importlib.util.find_spec("peft") is None:
        raise Ego2ExoError("--lora_enable True, and peft is not installed", "", "pip install 'llava-ego2exo[qlora]'")
    if bits == 16:
        return
    if bits not in (4, 8):
        raise Ego2ExoError(f"--bits {bits}", "16, 8 or 4")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise Ego2ExoError(
            f"--bits {bits}, and bitsandbytes is not installed", "", "pip install 'llava-ego2exo[qlora]'"
        )
    if not settings["lora_enable"] and not settings["tune_mm_mlp_adapter"] and parts != "mm_mlp_adapter":
        raise Ego2ExoError(
            f"--bits {bits} without LoRA: quantized weights cannot be trained",
            "--lora_enable True, or training the projector alone (--mm_tunable_parts mm_mlp_adapter)",
            "add --lora_enable True",
        )
    if settings["quant_type"] not in ("nf4", "fp4"):
        raise Ego2ExoError(f"--quant_type {settings['quant_type']}", "nf4, fp4")
