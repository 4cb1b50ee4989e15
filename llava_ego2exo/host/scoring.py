"""How likely a LLaVA model finds each option of a question about a video: no generation, nothing to parse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .asking import prompt
from .patchboard import substituted
from .sharing import shared_encoding

IGNORE_INDEX = -100


def option_scores(
    model: Any, tokenizer: Any, videos: Sequence[Tensor], questions: Sequence[str], options: Sequence[Sequence[str]],
    template: str,
) -> list[list[float]]:  # fmt: skip
    """Log-likelihood of each option as the answer to its question: the sum over its tokens.

    Args:
        model: a LLaVA model.
        tokenizer: its tokenizer.
        videos: one for each question, (T, 3, H, W), preprocessed; the same tensor may stand several times.
        questions: without placeholder.
        options: of each question, two or more.
        template: name of LLaVA's conversation template.
    """
    rows, media = [], []
    for video, question, choices in zip(videos, questions, options, strict=True):
        for choice in choices:
            rows.append(_row(tokenizer, prompt(question, template), choice))
            media.append(video)
    flat = iter(_scores(model, rows, media).tolist())
    return [[next(flat) for _ in choices] for choices in options]


def _row(tokenizer: Any, text: str, answer: str) -> tuple[Tensor, int]:
    """Ids of the prompt with an answer behind it, and how many of them are the prompt's."""
    from llava.mm_utils import tokenizer_image_token

    # The template's own blank between prompt and answer, as in training: none behind a line's end.
    joined = text + answer if text.endswith("\n") else f"{text} {answer}"
    start = len(tokenizer_image_token(text, tokenizer))
    return tokenizer_image_token(joined, tokenizer, return_tensors="pt"), start


@torch.inference_mode()
def _scores(model: Any, rows: list[tuple[Tensor, int]], media: list[Tensor]) -> Tensor:
    device, dtype = model.device, model.dtype
    kept = {id(video): video.to(device, dtype) for video in media}
    ids = [row for row, _ in rows]
    labels = [row.masked_fill(torch.arange(len(row)) < start, IGNORE_INDEX) for row, start in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    mask = pad([torch.ones_like(row, dtype=torch.bool) for row in ids], batch_first=True)
    kept_labels: list[Tensor] = []
    original = model.prepare_inputs_labels_for_multimodal

    def prepare(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        kept_labels.append(result[5])
        return (*result[:5], None)

    images = [kept[id(video)] for video in media]
    with shared_encoding(model, images), substituted(model, prepare_inputs_labels_for_multimodal=prepare):
        logits = model(
            input_ids=pad(ids, batch_first=True).to(device), attention_mask=mask.to(device),
            labels=pad(labels, batch_first=True, padding_value=IGNORE_INDEX).to(device),
            images=images, modalities=["video"] * len(media), use_cache=False,
        ).logits[:, :-1]  # fmt: skip
    target = kept_labels[0][:, 1:]
    there = target != IGNORE_INDEX
    chosen = logits.log_softmax(-1).gather(2, target.clamp(min=0)[..., None])[..., 0]
    return (chosen * there).sum(1)
