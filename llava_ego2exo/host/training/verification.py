"""The end of a run: what was saved is loaded by LLaVA's loader and must answer as the model in memory did."""

from __future__ import annotations

import gc
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...common.processes import is_first
from ...config import PREFIX
from ...errors import Ego2ExoError
from ..checkpoint.files import describe
from ..loading.merge import device_options
from ..model.answer_pass import IGNORE_INDEX, llava_model
from ..settings.command_line import Settings
from ..settings.context import Run
from .teachers import evaluating

FLAG = f"--{PREFIX}check_saved"
CHOICES = ("auto", "True", "False")
TOKENS = 8
# In standard deviations of the logits, up to which two models count as the same: how far apart the logits are on
# average, and how far the model in memory prefers its token to the other's. Merging LoRA rounds the sum once more.
TOLERANCES = {"full": (0.01, 0.001), "half": (0.25, 0.1)}


def require_choice(value: Any) -> str:
    """The flag's value.

    Raises:
        Ego2ExoError: no such choice.
    """
    found = next((choice for choice in CHOICES if choice.lower() == str(value).lower()), None)
    if found is None:
        raise Ego2ExoError(f"{FLAG} {value}", ", ".join(CHOICES), "leave it out for auto")
    return found


@dataclass(frozen=True)
class Reply:
    """What a model answers to one sample.

    Args:
        text: its answer.
        tokens: (n,), chosen greedily.
        logits: (n, V), from which each was chosen.
    """

    text: str
    tokens: Tensor
    logits: Tensor


def check_saved(settings: Settings, run: Run) -> None:
    """Compare; the model in memory is asked first and let go, so that there is room for the other.

    Args:
        settings: the run's.
        run: with its trainer, whose last reference may be this one.

    Raises:
        Ego2ExoError: the files do not load, or are not the model that was trained.
    """
    choice, trainer = require_choice(settings[f"{PREFIX}check_saved"]), run.trainer
    if not is_first():
        return None
    if choice == "False" or trainer is None or trainer.sharded:
        reason = "another trainer" if trainer is None else "sharded weights" if trainer.sharded else f"{FLAG} False"
        return _say(f"the saved student was not verified ({reason})")
    batch, name = _first_sample(trainer)
    tokenizer = getattr(trainer, "processing_class", None) or trainer.tokenizer
    with evaluating(trainer.model), trainer.compute_loss_context_manager():
        memory = ask(llava_model(trainer.model), tokenizer, batch)
    device, tower = trainer.args.device, llava_model(trainer.model).get_vision_tower().dtype
    run.trainer = trainer = None
    gc.collect()
    torch.cuda.empty_cache()
    try:
        saved = ask(_load(settings, device, tower), tokenizer, batch)
    except torch.cuda.OutOfMemoryError:
        if choice == "True":
            raise
        return _say(f"the saved student was not verified: no memory left on {device}")
    half = settings["bf16"] or settings["fp16"] or settings["bits"] in (4, 8)
    apart = require_same(memory, saved, "half" if half else "full", f"{settings['output_dir']}, sample {name}")
    return _say(f"the saved student answers sample {name} as in memory (logits differ by {apart:.1g} SD)")


def _say(text: str) -> None:
    print(f"ego2exo: {text}", flush=True)  # noqa: T201


def _first_sample(trainer: Any) -> tuple[dict[str, Any], str]:
    """The first training sample with a clip (the first, if none has), up to its first answer; and its name."""
    samples = getattr(trainer.train_dataset, "list_data_dict", [{}])
    index = next((i for i, sample in enumerate(samples) if "video" in sample), 0)
    batch = trainer.data_collator([trainer.train_dataset[index]])
    labels = batch["labels"]
    answer = labels != IGNORE_INDEX if trainer.content is None else trainer.content.own(labels)
    places = answer[0].nonzero()[:, 0]
    end = int(places[0]) if len(places) else labels.shape[1]
    kept = {key: batch[key] for key in ("images", "image_sizes", "modalities") if batch.get(key) is not None}
    return {"ids": batch["input_ids"][:, : max(end, 1)], **kept}, str(samples[index].get("id", index))


def ask(model: Any, tokenizer: Any, batch: dict[str, Any]) -> Reply:
    """A few tokens, greedily."""
    options = {key: batch[key] for key in ("image_sizes", "modalities") if key in batch}
    if "images" in batch:
        moved = [image.to(model.device, model.dtype) for image in batch["images"]]
        options["images"] = torch.stack(moved) if isinstance(batch["images"], Tensor) else moved
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # transformers: settings for sampling that greedy leaves unused
        out = model.generate(
            batch["ids"].to(model.device), **options, do_sample=False, num_beams=1, use_cache=True,
            max_new_tokens=TOKENS, output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
    logits = torch.stack([row[0].float().cpu() for row in out.scores])
    tokens = out.sequences[0, -len(logits) :].cpu()
    return Reply(tokenizer.decode(tokens, skip_special_tokens=True), tokens, logits)


def _load(settings: Settings, device: torch.device, tower: torch.dtype) -> Any:
    from llava.model.builder import load_pretrained_model

    folder = str(settings["output_dir"])
    base = None if describe(folder).kind == "full" else settings["model_name_or_path"]
    dtype = "bfloat16" if settings["bf16"] else "float16" if settings["fp16"] else "float32"
    options = {f"load_{settings['bits']}bit": True} if settings["bits"] in (4, 8) else {}
    options |= device_options(load_pretrained_model, device)
    try:
        model = load_pretrained_model(folder, base, "llava_ego2exo", torch_dtype=dtype, **options)[1]
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        raise Ego2ExoError(
            f"what was saved to {folder} does not load ({f'{type(error).__name__}: {error}'.splitlines()[0]})",
            "a student that LLaVA's loader loads",
            "use the last complete checkpoint-N, and report this with the training command",
        ) from error
    model.get_vision_tower().to(tower)
    return model.eval()


def require_same(memory: Reply, saved: Reply, precision: str, name: str) -> float:
    """How far the first logits of two models are apart on average, in standard deviations.

    Args:
        memory: of the model in memory.
        saved: of the one that was loaded; its loader may have cut rows of the vocabulary that no token has.
        precision: a key of `TOLERANCES`.
        name: of the saved folder and the sample, for the message.

    Raises:
        Ego2ExoError: they are not one model.
    """
    width = min(memory.logits.shape[1], saved.logits.shape[1])
    first, other = memory.logits[0, :width], saved.logits[0, :width]
    possible = torch.isfinite(first) & torch.isfinite(other)  # generation settings may forbid some tokens
    apart = float((first - other)[possible].abs().mean()) / (float(first[possible].std()) or 1.0)
    lead = 0.0
    for row, mine, theirs in zip(memory.logits[:, :width], memory.tokens, saved.tokens, strict=False):
        if mine != theirs:  # from here on the two have other inputs
            lead = float(row.max() - row[theirs]) / (float(row[torch.isfinite(row)].std()) or 1.0)
            break
    tolerance, tie = TOLERANCES[precision]
    if not apart <= tolerance or not lead <= tie:
        raise Ego2ExoError(
            f"{name}: the saved files answer {saved.text!r}, the trained model in memory {memory.text!r}; logits "
            f"differ by {apart:.2g} standard deviations",
            f"the same answer, and logits that differ by at most {tolerance:g}",
            "do not use these files; take the last complete checkpoint-N, and report this with the training command",
        )
    return apart
