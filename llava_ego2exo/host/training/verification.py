"""The end of a run: what was saved is loaded by LLaVA's loader and must give the logits of the model in memory."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import Tensor

from ...common.processes import is_first
from ...config import PREFIX
from ...errors import Ego2ExoError
from ..checkpoint.files import describe
from ..model.answer_tokens import answer_states, llava_model
from ..settings import Run, Settings
from .losses import asks_head_at_answers
from .teachers import evaluating, load_as_trained

FLAG = f"--{PREFIX}check_saved"
CHOICES = ("auto", "True", "False")
# In standard deviations of the logits, up to which two models count as the same: how far apart the logits are on
# average, and how far the model in memory prefers its token to the other's. Merging LoRA rounds the sum once more.
TOLERANCES = {"full": (0.01, 0.001), "half": (0.25, 0.1)}
_INPUTS = ("input_ids", "attention_mask", "labels", "images", "image_sizes", "modalities")


def require_choice(value: Any) -> str:
    """The flag's value, or an error."""
    found = next((choice for choice in CHOICES if choice.lower() == str(value).lower()), None)
    if found is None:
        raise Ego2ExoError(f"{FLAG} {value}", ", ".join(CHOICES), "leave it out for auto")
    return found


def verify_saved(settings: Settings, run: Run) -> None:
    """Compare on the first sample with a clip; the model in memory is asked first, and freed to make room.

    Raises:
        Ego2ExoError: the files do not load, or are not the model that was trained.
    """
    if not is_first():
        return
    choice, trainer = require_choice(settings[f"{PREFIX}check_saved"]), run.trainer
    reason = None
    if choice == "False":
        reason = f"{FLAG} False"
    elif trainer is None:
        reason = "another trainer than ego2exo"
    elif not asks_head_at_answers(trainer.model, trainer.sharded):
        reason = "its logits cannot be taken at answers alone"
    if reason:
        _say(f"the saved student was not verified: {reason}")
        return
    batch, name = _first_sample(trainer)
    with evaluating(trainer.model), trainer.compute_loss_context_manager():
        memory = answer_logits(llava_model(trainer.model), batch)
    if not len(memory):
        _say(f"the saved student was not verified: sample {name} has no answer token left")
        return
    device, tower = trainer.args.device, llava_model(trainer.model).get_vision_tower().dtype
    run.trainer = trainer = None
    gc.collect()
    torch.cuda.empty_cache()
    try:
        saved = answer_logits(_load(settings, device, tower), batch)
    except torch.cuda.OutOfMemoryError:
        if choice == "True":
            raise
        _say(f"the saved student was not verified: no memory left on {device}")
        return
    half = settings["bf16"] or settings["fp16"] or settings["bits"] in (4, 8)
    apart = require_same(memory, saved, "half" if half else "full", str(settings["output_dir"]))
    _say(f"the saved student equals the one in memory on sample {name} (logits differ by {apart:.1g} SD)")


def _say(text: str) -> None:
    print(f"ego2exo: {text}", flush=True)  # noqa: T201


def _first_sample(trainer: Any) -> tuple[dict[str, Any], str]:
    """The first training sample with a clip (the first, if none has) as a batch, and its name."""
    samples = getattr(trainer.train_dataset, "list_data_dict", [{}])
    index = next((i for i, sample in enumerate(samples) if "video" in sample), 0)
    batch = trainer.data_collator([trainer.train_dataset[index]])
    return {key: batch[key] for key in _INPUTS if batch.get(key) is not None}, str(samples[index].get("id", index))


def answer_logits(model: Any, batch: dict[str, Any]) -> Tensor:
    """(N, V) float32 on the CPU: the logits that predict a batch's supervised tokens."""

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(one) for one in value]
        if not isinstance(value, Tensor):
            return value
        return value.to(model.device, model.dtype if value.is_floating_point() else None)

    _, hidden = answer_states(model, model, {key: moved(value) for key, value in batch.items()})
    head = model.get_output_embeddings()
    with torch.no_grad():  # accelerate makes a half-precision model's outputs float32
        return head(hidden.to(head.weight.dtype)).float().cpu()


def _load(settings: Settings, device: torch.device, tower: torch.dtype) -> Any:
    folder = str(settings["output_dir"])
    base = None if describe(folder).kind == "full" else settings["model_name_or_path"]
    try:
        model = load_as_trained(folder, base, device, *(settings[name] for name in ("bf16", "fp16", "bits")))
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


def require_same(memory: Tensor, saved: Tensor, precision: str, folder: str) -> float:
    """How far the logits of two models, (N, V) and (N, V'), are apart on average, in standard deviations.

    The loader of the saved one may have cut rows of the vocabulary that no token has.

    Raises:
        Ego2ExoError: they are not one model.
    """
    width = min(memory.shape[1], saved.shape[1])
    memory, saved = memory[:, :width], saved[:, :width]
    spread = memory.std(dim=1).mean()
    apart = float((memory - saved).abs().mean() / spread)
    other = memory.gather(1, saved.argmax(dim=1, keepdim=True))[:, 0]
    lead = float((memory.amax(dim=1) - other).max() / spread)
    tolerance, tie = TOLERANCES[precision]
    if not apart <= tolerance or not lead <= tie:
        raise Ego2ExoError(
            f"the files in {folder} are not the trained model: logits differ by {apart:.2g} standard deviations on "
            f"average, and the best token by {lead:.2g}",
            f"at most {tolerance:g} and {tie:g}",
            "do not use these files; take the last complete checkpoint-N, and report this with the training command",
        )
    return apart
