"""Every place where the plugin enters LLaVA, in one table; nothing else of the host is touched.

A *hook* lets the plugin's names and models in; without these it passes everything through. A *fix* turns one upstream
crash, silent loss or garbage into what was meant, and can be switched off: ``register(fixes="all,-key")``.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from ...errors import Ego2ExoError
from .flavour import NEXT, PYPI

BOTH = (NEXT, PYPI)
_ARCH, _TRAIN, _TRAINER = "llava.model.llava_arch", "llava.train.train", "llava.train.llava_trainer"
_BUILDER, _LM = "llava.model.builder", "llava.model.language_model"
_TOWERS = "llava.model.multimodal_encoder"
_PREPARE = "LlavaMetaForCausalLM.prepare_inputs_labels_for_multimodal"


@dataclass(frozen=True)
class Seam:
    """One attribute of the host that is replaced."""

    key: str  # its name; seams that fix one fault share one
    kind: str  # "hook" or "fix"
    module: str  # of the host
    target: str  # dotted name inside it
    wrap: str  # ``file:function`` below `llava_ego2exo.host`; called with the original, returns the replacement
    params: tuple[str, ...]  # of the original, that the wrapper relies on
    flavours: tuple[str, ...]  # hosts it applies to
    why: str  # what it is for; for a fix, the upstream fault
    remove_when: str  # what upstream would have to do for it to go


def _seam(
    kind: str, key: str, module: str, target: str, wrap: str, params: str, why: str, remove_when: str,
    flavours: tuple[str, ...] = BOTH,
) -> Seam:  # fmt: skip
    return Seam(key, kind, module, target, wrap, tuple(params.split()), flavours, why, remove_when)


_hook, _fix = functools.partial(_seam, "hook"), functools.partial(_seam, "fix")
_TABLES = "LLaVA looks these names up in a table that others can add to"
_FORWARDS = (
    ("llava_llama", "LlavaLlamaForCausalLM", BOTH),
    ("llava_mistral", "LlavaMistralForCausalLM", BOTH),
    ("llava_qwen", "LlavaQwenForCausalLM", (NEXT,)),
    ("llava_mixtral", "LlavaMixtralForCausalLM", (NEXT,)),
    ("llava_gemma", "LlavaGemmaForCausalLM", (NEXT,)),
    ("llava_qwen_moe", "LlavaQwenMoeForCausalLM", (NEXT,)),
)

HOOKS = (
    _hook("projector", _ARCH, "build_vision_projector", "model.projector:wrap_builder", "config delay_load",
          "registered projector types, and any type behind ego2exo_", _TABLES),
    _hook("initialize", _ARCH, "LlavaMetaModel.initialize_vision_modules", "model.projector:wrap_initialize",
          "self model_args fsdp", "gives a model in training its ego tokens", _TABLES),
    _hook("splice", _ARCH, _PREPARE, "model.splice:wrap_prepare", "self input_ids attention_mask labels images",
          "ego tokens behind their video's visual tokens; videos pooled by --ego2exo_pool",
          "LLaVA lets a projector add tokens to a video"),
    _hook("loader", _BUILDER, "load_pretrained_model", "loader:wrap_loader",
          "model_path model_base model_name load_8bit load_4bit device_map",
          "loads and verifies checkpoints; class by config; Qwen with a base; CPU; any dtype; no pickled code",
          "LLaVA's loader chooses by config and refuses missing weights"),
    _hook("model-flags", _TRAIN, "ModelArguments", "arguments:with_model_flags",
          "mm_projector_type vision_tower",
          "--ego2exo and its flags", "LLaVA takes flags from plugins"),
    _hook("data-flags", _TRAIN, "DataArguments", "arguments:with_data_flags", "data_path image_folder",
          "LLaVA-NeXT's video flags on llava-torch", "never: llava-torch has no videos"),
    _hook("training-flags", _TRAIN, "TrainingArguments", "arguments:with_training_flags", "bits lora_enable",
          "--trainer_type", "LLaVA takes flags from plugins"),
    _hook("trainer", _TRAIN, "LLaVATrainer", "trainer:wrap_trainer", "", "registered trainers", _TABLES),
    _hook("data", _TRAIN, "make_supervised_data_module", "training.dataset:wrap_data_module", "tokenizer data_args",
          "an unreadable sample stops the run by name; videos on llava-torch", "LLaVA never replaces a sample"),
    _hook("reader", _TRAIN, "process_video_with_decord", "training.dataset:wrap_reader", "video_file data_args",
          "a run with ego tokens reads videos within bounds and through its frame cache", "LLaVA bounds its reader",
          (NEXT,)),
    _hook("train", _TRAIN, "train", "run:wrap_train", "attn_implementation",
          "checks before weights load, inheritance from the base's config, the loader call at the end",
          "LLaVA checks its flags and keeps a checkpoint's settings"),
)  # fmt: skip

_ADDED = "--mm_use_im_patch_token and --mm_use_im_start_end add embeddings that no LoRA or projector folder keeps"
_ADDED_GONE = "upstream saves embeddings that it has resized"
FIXES = (
    _fix("modalities", _ARCH, _PREPARE, "fixes.model_classes:wrap_prepare", "self input_ids images image_sizes",
          "the batch is cut, silently, to as many rows as `modalities` has entries; "
          "Mistral and Gemma pass image_sizes in its place", "upstream passes modalities for every row", (NEXT,)),
    *(_fix("modalities", f"{_LM}.{module}", f"{name}.{method}", "fixes.model_classes:wrap_model_method", "self images",
            "some models' forward and generate do not take modalities, cache_position or "
            "output_router_logits (Mixtral) and crash", "every LLaVA class takes all three", flavours)
      for module, name, flavours in _FORWARDS for method in ("forward", "generate")),
    *(_fix("quantization", f"{_LM}.{module}", f"{name}.from_pretrained", "fixes.model_classes:wrap_from_pretrained",
            "cls", "--bits 4/8 and load_4bit die before quantizing, or quantize the projector",
            "upstream passes one quantization_config that skips projector, tower and head", flavours)
      for module, name, flavours in _FORWARDS),
    *(_fix("class-letters", f"{_LM}.{module}", f"{name}.from_pretrained", "checkpoint.config:wrap_class", "cls",
            "training chooses the class by letters in the path, and another class's weights are silently dropped",
            "upstream chooses by config", flavours)
      for module, name, flavours in _FORWARDS),
    *(_fix("generation-config", f"{_LM}.{module}", f"{name}.from_pretrained", "fixes.saving:wrap_generation", "cls",
            "a base with temperature or top_p but no do_sample in its generation_config.json cannot be saved",
            "upstream corrects the generation config that it loads", flavours)
      for module, name, flavours in _FORWARDS),
    *(_fix("attention", f"{_LM}.{module}", f"{name}.from_pretrained", "fixes.model_classes:wrap_attention", "cls",
            "flash attention is the default and a missing flash-attn an ImportError",
            "upstream falls back to sdpa", flavours)
      for module, name, flavours in _FORWARDS),
    _fix("added-tokens", _ARCH, "LlavaMetaForCausalLM.initialize_vision_tokenizer", "fixes.saving:mark_added_tokens",
         "self model_args tokenizer", _ADDED, _ADDED_GONE),
    *(_fix("added-tokens", module, name, "fixes.saving:keep_added_rows", "named_params", _ADDED, _ADDED_GONE)
      for module, name in ((_TRAIN, "get_peft_state_non_lora_maybe_zero_3"),
                           (_TRAIN, "get_mm_adapter_state_maybe_zero_3"),
                           (_TRAINER, "get_mm_adapter_state_maybe_zero_3"))),
    _fix("siglip-folder", _ARCH, "build_vision_tower", "fixes.towers:local_siglip", "vision_tower_cfg",
          "a local SigLIP folder is read as CLIP", "upstream reads the folder's config", (NEXT,)),
    _fix("hf-tower", f"{_TOWERS}.hf_vision", "HFVisionTower.load_model", "fixes.towers:hf_tower", "self",
          "an hf: tower asks for CUDA and takes no device_map, so the loader crashes on it",
          "load_model takes device_map", (NEXT,)),
    _fix("training-loop", _TRAINER, "LLaVATrainer._inner_training_loop", "fixes.trainer:training_loop", "self",
          "NameError: math at step 0 of every run", "upstream drops its copy of the loop", (NEXT,)),
    _fix("accelerator", _TRAINER, "LLaVATrainer.create_accelerator_and_postprocess", "fixes.trainer:accelerator",
         "self",
          "TypeError: dispatch_batches with accelerate >= 1.0", "upstream leaves it to transformers", (NEXT,)),
    _fix("operations", _TRAINER, "LLaVATrainer.floating_point_ops", "fixes.trainer:operations", "self inputs",
          "a quantized run without CUDA dies after step 1 (transformers <= 4.40)", "transformers <= 4.40 is gone"),
    _fix("resume", _TRAINER, "LLaVATrainer._save_checkpoint", "fixes.trainer:save_checkpoint", "self model trial",
          "checkpoint-N of a LoRA run lacks the projector, of a projector run everything else",
          "upstream saves non_lora_trainables.bin in checkpoint-N"),
    _fix("resume", _TRAINER, "LLaVATrainer._load_from_checkpoint", "fixes.trainer:load_checkpoint",
          "self resume_from_checkpoint", "resume leaves the projector at its start values", "as above"),
    _fix("resume", _TRAINER, "LLaVATrainer._load_rng_state", "fixes.trainer:random_state", "self checkpoint",
          "resume fails on rng_state.pth with torch >= 2.6", "transformers >= 4.46"),
    _fix("lora-targets", _TRAIN, "find_all_linear_names", "fixes.trainer:lora_targets", "model",
          "LoRA also lands on the vision tower when the base checkpoint holds one",
          "upstream names LoRA targets whole"),
    _fix("save-without-cuda", _TRAIN, "safe_save_model_for_hf_trainer", "fixes.trainer:save_model",
         "trainer output_dir",
          "the final save calls torch.cuda.synchronize()", "upstream asks whether there is CUDA"),
    _fix("time-instruction", _TRAIN, "LazySupervisedDataset._get_item", "fixes.data:keep_turns", "self i",
          "the time instruction is written into the stored sample once more every epoch",
          "upstream copies the sample first", (NEXT,)),
    *(_fix("chat-template", _TRAIN, name, "fixes.data:compile_once", "sources tokenizer",
            "the chat template is compiled anew for every sample, and 128 copies of the tokenizer are kept",
            "transformers >= 4.43", (NEXT,))
      for name in ("preprocess_qwen", "preprocess_llama3")),
    _fix("placement", _TRAIN, "preprocess_multimodal", "fixes.data:keep_placement", "sources data_args",
          "a placeholder behind the question is moved before it, in samples with `ego_video` too",
          "upstream leaves placeholders where they stand"),
    _fix("exports", _TRAIN, "", "fixes.model_classes:missing_classes", "",
          "NameError for Gemma and Qwen-MoE", "llava.model exports them", (NEXT,)),
    _fix("exports", _BUILDER, "", "fixes.model_classes:missing_classes", "",
          "NameError for Gemma and Qwen-MoE", "llava.model exports them", (NEXT,)),
)  # fmt: skip

SEAMS = (*HOOKS, *FIXES)
FIXES_VARIABLE = "LLAVA_EGO2EXO_FIXES"


def enabled_fixes(fixes: str | None = None) -> frozenset[str]:
    """Keys of the fixes to apply.

    `fixes` is "all", "none", or a comma list that adds ``key`` and removes ``-key``; None reads the environment.
    """
    known = frozenset(seam.key for seam in FIXES)
    chosen: set[str] = set()
    for part in (fixes or os.environ.get(FIXES_VARIABLE) or "all").split(","):
        key = part.strip().removeprefix("-")
        if key not in known | {"all", "none"}:
            raise Ego2ExoError(
                f"fixes {part.strip()!r}",
                f"all, none, {', '.join(sorted(known))}, each also with -",
                f"change register(fixes=...), or the variable {FIXES_VARIABLE}",
            )
        if part.strip().startswith("-"):
            chosen.discard(key)
        else:
            chosen |= known if key == "all" else set() if key == "none" else {key}
    return frozenset(chosen)
