"""Which option of a multiple-choice question a LLaVA model finds likeliest: its letter scored in one forward pass.

The score of an option is the log-probability of its key ("A", "3") as what the answer begins with. Nothing is generated
and nothing parsed; the language model's head is asked at the answer's place alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import Ego2ExoError
from .asking import prompt
from .patchboard import substituted
from .scoring import answer_log_probs, answer_row, score
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

    @property
    def tail(self) -> Tensor:
        """Tokens of the key."""
        return self.ids[self.start :]


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
        parts = [(clip, question, _rows(teacher, question)) for clip, own in enumerate(asked) for question in own]
        owners = [clip for clip, _, rows in parts for _ in rows]
        flat = [(row.ids, row.start) for _, _, rows in parts for row in rows]
        # On the right, whatever the checkpoint was trained with; and nothing is cut off unnoticed.
        whole = {"tokenizer_padding_side": "right", "tokenizer_model_max_length": None}
        with teacher.checked_lengths(owners), substituted(teacher.model.config, **whole):
            places = iter(answer_log_probs(teacher.model, flat, [fitting[owner] for owner in owners]))
        return [_scores(question, rows, [next(places) for _ in rows]) for _, question, rows in parts]

    return teacher.each(clips, questions, ask)


def _rows(teacher: Teacher, question: Asked) -> list[_Row]:
    """One row for all keys that begin alike but for their last token, as letters and digits do."""
    text = prompt(question.text, teacher.template)
    whole = {key: answer_row(teacher.tokenizer, text, key) for key in question.keys}
    tails = {key: ids[start:] for key, (ids, start) in whole.items()}
    if len({tuple(tail.tolist()) for tail in tails.values()}) < len(tails) or any(not len(t) for t in tails.values()):
        raise Ego2ExoError(
            f"the tokenizer cannot tell the options {', '.join(question.keys)} apart",
            "keys that it writes differently",
            "use --mode generate for this model",
        )
    rows: list[_Row] = []
    for key, tail in sorted(tails.items(), key=lambda pair: -len(pair[1])):
        row = next((row for row in rows if torch.equal(row.tail[: len(tail) - 1], tail[:-1])), None)
        if row is None:
            row = _Row(*whole[key], {})
            rows.append(row)
        row.wanted[key] = tail
    return rows


def _scores(question: Asked, rows: Sequence[_Row], places: Sequence[Tensor]) -> dict[str, float]:
    """In the order of the question's keys."""
    found = {key: score(own, ids) for row, own in zip(rows, places, strict=True) for key, ids in row.wanted.items()}
    return {key: found[key] for key in question.keys}
