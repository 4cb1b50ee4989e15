"""What a model says about the first training sample with a clip: asked greedily, and kept with its logits."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .answer_pass import llava_model
from .kl_teachers import evaluating

TOKENS = 8


@dataclass(frozen=True)
class Reply:
    """What a model says about one sample.

    Args:
        text: its answer.
        tokens: (n,), chosen greedily.
        logits: (n, V), from which each was chosen.
    """

    text: str
    tokens: Tensor
    logits: Tensor


def tokenizer_of(trainer: Any) -> Any:
    """A trainer's tokenizer, under either name that transformers gives it."""
    return getattr(trainer, "processing_class", None) or trainer.tokenizer


def first_sample(trainer: Any) -> tuple[dict[str, Any], str]:
    """The first training sample with a clip (the first, if none has), as far as its first answer; and its name."""
    samples = getattr(trainer.train_dataset, "list_data_dict", [{}])
    index = next((i for i, sample in enumerate(samples) if "video" in sample), 0)
    batch = trainer.data_collator([trainer.train_dataset[index]])
    labels = batch["labels"]
    answer = labels != -100 if trainer.content is None else trainer.content.own(labels)
    places = answer[0].nonzero()[:, 0]
    end = int(places[0]) if len(places) else labels.shape[1]
    kept = {key: batch[key] for key in ("images", "image_sizes", "modalities") if batch.get(key) is not None}
    return {"ids": batch["input_ids"][:, : max(end, 1)], **kept}, str(samples[index].get("id", index))


def asked_in_memory(trainer: Any, batch: dict[str, Any]) -> Reply:
    """The model in memory, in the precision that it trains in."""
    model = llava_model(trainer.model)
    with evaluating(trainer.model), trainer.compute_loss_context_manager():
        return reply(model, tokenizer_of(trainer), batch)


def reply(model: Any, tokenizer: Any, batch: dict[str, Any]) -> Reply:
    """Greedy, a few tokens."""
    options = {key: batch[key] for key in ("image_sizes", "modalities") if key in batch}
    if "images" in batch:
        images = batch["images"]
        move = [image.to(model.device, model.dtype) for image in images]
        options["images"] = torch.stack(move) if isinstance(images, Tensor) else move
    with torch.inference_mode(), _quiet():
        out = model.generate(
            batch["ids"].to(model.device), **options, do_sample=False, num_beams=1, use_cache=True,
            max_new_tokens=TOKENS, output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
    logits = torch.stack([row[0].float().cpu() for row in out.scores])
    tokens = out.sequences[0, -len(logits) :].cpu()
    return Reply(tokenizer.decode(tokens, skip_special_tokens=True), tokens, logits)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers warns of settings for sampling that greedy decoding leaves unused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
