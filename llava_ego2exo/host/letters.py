"""Which option of a multiple-choice question a LLaVA model finds likeliest: its letter scored in one forward pass.

The score of an option is the log-probability of its key ("A", "3") as what the answer begins with. Nothing is generated
and nothing parsed; the language model's head is asked at the answer's place alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import Ego2ExoError
from .answer_pass import IGNORE_INDEX, Answers, answer_pass
from .asking import prompt
from .patchboard import substituted
from .sharing import shared_encoding
from .teacher import Teacher


@dataclass(frozen=True)
class Asked:
    """A question as it is put, without placeholder, and the keys of its options."""

    text: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class _Row:
    """One row of a batch: a prompt with one key behind it.

    Args:
        ids: of prompt and key.
        start: where the key begins.
        wanted: option's key -> token ids whose log-probabilities, one a place, add up to its score.
    """

    ids: Tensor
    start: int
    wanted: dict[str, Tensor]


@torch.inference_mode()
def letter_scores(
    teacher: Teacher, clips: Sequence[Tensor], questions: Sequence[Sequence[Asked]]
) -> list[list[dict[str, float]] | Ego2ExoError]:
    """Score of each option of each question, all clips in one batch; each goes through the vision tower once.

    Args:
        teacher: a loaded model with its template.
        clips: (T, 3, H, W) each, preprocessed.
        questions: those of each clip.

    Returns:
        For each clip one dict a question, option's key -> log-probability; an error for a clip that is too long.
    """

    def ask(fitting: Sequence[Tensor], asked: Sequence[Sequence[Asked]]) -> list[dict[str, float]]:
        owners = [clip for clip, own in enumerate(asked) for _ in own]
        parts = [_rows(teacher, question) for own in asked for question in own]
        rows = [row for part in parts for row in part]
        videos = [clip.to(teacher.model.device, teacher.model.dtype) for clip in fitting]
        counted = [owner for owner, part in zip(owners, parts, strict=True) for _ in part]
        scores = iter(_pass(teacher, rows, [videos[owner] for owner in counted], counted))
        made = [{key: score for _ in part for key, score in next(scores).items()} for part in parts]
        order = (question.keys for own in asked for question in own)
        return [{key: one[key] for key in keys} for keys, one in zip(order, made, strict=True)]

    return teacher.each(clips, questions, ask)


def _rows(teacher: Teacher, question: Asked) -> list[_Row]:
    """One row for all keys that begin alike but for their last token, as letters and digits do."""
    from llava.mm_utils import tokenizer_image_token

    text = prompt(question.text, teacher.template)
    head = tokenizer_image_token(text, teacher.tokenizer)
    # The template's own blank between prompt and answer, as in training: none behind a line's end.
    joint = "" if text.endswith("\n") else " "
    whole = {key: tokenizer_image_token(f"{text}{joint}{key}", teacher.tokenizer) for key in question.keys}
    tails = {key: torch.tensor(ids[len(head) :]) for key, ids in whole.items()}
    if len({tuple(tail.tolist()) for tail in tails.values()}) < len(tails) or any(not len(t) for t in tails.values()):
        raise Ego2ExoError(
            f"the tokenizer cannot tell the options {', '.join(question.keys)} apart",
            "keys that it writes differently",
            "use --mode generate for this model",
        )
    rows: list[_Row] = []
    for key, tail in sorted(tails.items(), key=lambda pair: -len(pair[1])):
        row = next((row for row in rows if torch.equal(row.ids[row.start :][: len(tail) - 1], tail[:-1])), None)
        if row is None:
            row = _Row(torch.tensor(whole[key]), len(head), {})
            rows.append(row)
        row.wanted[key] = tail
    return rows


def _pass(teacher: Teacher, rows: Sequence[_Row], images: list[Tensor], owners: list[int]) -> list[dict[str, float]]:
    model = teacher.model
    pad = torch.nn.utils.rnn.pad_sequence
    labels = [row.ids.masked_fill(torch.arange(len(row.ids)) < row.start, IGNORE_INDEX) for row in rows]
    head = model.get_output_embeddings().forward

    def likely(_answers: Answers, hidden: Tensor) -> Tensor:
        return head(hidden).float().log_softmax(-1)

    inputs = {
        "input_ids": pad([row.ids for row in rows], batch_first=True).to(model.device),
        "attention_mask": pad([torch.ones_like(row.ids, dtype=torch.bool) for row in rows], batch_first=True).to(
            model.device
        ),
        "labels": pad(labels, batch_first=True, padding_value=IGNORE_INDEX).to(model.device),
        "images": images, "modalities": ["video"] * len(images), "use_cache": False,
    }  # fmt: skip
    whole = {"tokenizer_padding_side": "right", "tokenizer_model_max_length": None}
    with teacher.checked_lengths(owners), substituted(model.config, **whole), shared_encoding(model, images):
        found, _ = answer_pass(model, model, inputs, likely)
    return _scores(rows, found.cpu())


def _scores(rows: Sequence[_Row], found: Tensor) -> list[dict[str, float]]:
    """`found`: (all rows' answer tokens, vocabulary), row after row."""
    scores, first = [], 0
    for row in rows:
        places = found[first : first + len(row.ids) - row.start]
        first += len(places)
        scores.append({key: _score(places, ids) for key, ids in row.wanted.items()})
    return scores


def _score(places: Tensor, ids: Tensor) -> float:
    return float(places[: len(ids)].gather(1, ids[:, None].to(torch.int64)).sum())


def best(scores: dict[str, float]) -> Any:
    """The likeliest key; the first of equal ones."""
    return max(scores, key=scores.__getitem__)
