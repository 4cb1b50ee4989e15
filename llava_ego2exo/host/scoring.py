"""How likely a LLaVA model finds each option of a question about a video: no generation, nothing to parse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .answer_pass import IGNORE_INDEX, Answers, answer_pass
from .asking import prompt
from .sharing import shared_encoding


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
            rows.append(answer_row(tokenizer, prompt(question, template), choice))
            media.append(video)
    found = answer_log_probs(model, rows, media)
    flat = iter(score(places, ids[start:]) for places, (ids, start) in zip(found, rows, strict=True))
    return [[next(flat) for _ in choices] for choices in options]


def answer_row(tokenizer: Any, text: str, answer: str) -> tuple[Tensor, int]:
    """Ids of a prompt with an answer behind it, and how many of them are the prompt's."""
    from llava.mm_utils import tokenizer_image_token

    # The template's own blank between prompt and answer, as in training: none behind a line's end.
    joined = text + answer if text.endswith("\n") else f"{text} {answer}"
    start = len(tokenizer_image_token(text, tokenizer))
    return tokenizer_image_token(joined, tokenizer, return_tensors="pt"), start


@torch.inference_mode()
def answer_log_probs(model: Any, rows: Sequence[tuple[Tensor, int]], videos: Sequence[Tensor]) -> list[Tensor]:
    """For each row (answer tokens, vocabulary): log-probabilities of what may stand at each place of its answer.

    The language model's head is asked at these places alone, and each different video is encoded once.

    Args:
        model: a LLaVA model.
        rows: what :func:`answer_row` gives.
        videos: of each row, (T, 3, H, W), preprocessed; the same tensor object where rows share it.
    """
    device, dtype = model.device, model.dtype
    kept = {id(video): video.to(device, dtype) for video in videos}
    images = [kept[id(video)] for video in videos]
    ids = [row for row, _ in rows]
    labels = [row.masked_fill(torch.arange(len(row)) < start, IGNORE_INDEX) for row, start in rows]
    pad, head = torch.nn.utils.rnn.pad_sequence, model.get_output_embeddings().forward
    mask = pad([torch.ones_like(row, dtype=torch.bool) for row in ids], batch_first=True)

    def likely(_answers: Answers, hidden: Tensor) -> Tensor:
        return head(hidden).float().log_softmax(-1)

    inputs = {
        "input_ids": pad(ids, batch_first=True).to(device), "attention_mask": mask.to(device),
        "labels": pad(labels, batch_first=True, padding_value=IGNORE_INDEX).to(device),
        "images": images, "modalities": ["video"] * len(images), "use_cache": False,
    }  # fmt: skip
    with shared_encoding(model, images):
        found, _ = answer_pass(model, model, inputs, likely)
    return list(found.cpu().split([len(row) - start for row, start in rows]))


def score(places: Tensor, ids: Tensor) -> float:
    """Sum of the log-probabilities of tokens, one a place from the first on.

    Args:
        places: (T, vocabulary).
        ids: (at most T,).
    """
    return float(places[: len(ids)].gather(1, ids[:, None].to(torch.int64)).sum())
