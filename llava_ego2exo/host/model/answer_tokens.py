"""One forward pass of a LLaVA model whose head runs at answer positions only.

LLaVA expands each placeholder inside `forward`, so that only there is it known which positions predict answer tokens.
For the time of a pass the model's input preparation records the expanded labels, and the head is exchanged for a
function that gets these positions' hidden states. What the function returns comes out in place of the logits: the
model's `forward` is entered once and from outside, as distributed training needs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import Ego2ExoError
from ..hooks.install import substituted

IGNORE_INDEX = -100
IMAGE_TOKEN_INDEX = -200  # LLaVA's id of a placeholder


def llava_model(model: Any) -> Any:
    """The LLaVA model inside PEFT's wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


@dataclass
class ExpandedLabels:
    """What LLaVA's input preparation made of a batch."""

    labels: Tensor | None = None  # (rows, length), -100 where nothing is supervised; None before the pass
    lengths: list[int] = field(default_factory=list)  # of each row without its padding
    limit: int | None = None  # LLaVA cuts longer rows to this length; None: it does not

    @property
    def supervised(self) -> Tensor:
        """(rows, length - 1) bool: positions whose next token is supervised."""
        return self.labels[:, 1:] != IGNORE_INDEX  # type: ignore[index]

    @property
    def cut(self) -> list[bool]:
        """For each row whether it is as long as a row can be, so that its end may be missing."""
        return [self.limit is not None and length >= self.limit for length in self.lengths]


@contextmanager
def capture_labels(model: Any, hide_labels: bool = False) -> Iterator[ExpandedLabels]:
    """Inside the block, `ExpandedLabels` holds the expanded labels of the last pass of a LLaVA model, unwrapped.

    With `hide_labels` transformers does not get them, and computes no loss of its own.
    """
    expanded = ExpandedLabels(limit=getattr(model.config, "tokenizer_model_max_length", None))
    original = model.prepare_inputs_labels_for_multimodal

    def prepare(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        mask, expanded.labels = result[2], result[5]
        if expanded.labels is not None:
            rows, length = expanded.labels.shape
            expanded.lengths = [length] * rows if mask is None else mask.sum(dim=1).tolist()
        return (*result[:5], None) if hide_labels else result

    with substituted(model, prepare_inputs_labels_for_multimodal=prepare):
        yield expanded


@dataclass(frozen=True)
class Answers:
    """The supervised tokens of a batch, row after row."""

    tokens: Tensor  # (N,) int64
    rows: Tensor  # (N,), the row of each
    places: Tensor  # (N,), its position in the expanded row
    cut: list[bool]  # for each row whether it is as long as a row can be, so that its end may be missing

    def row(self, index: int) -> Tensor:
        """(n,), indices of a row's tokens in `tokens`."""
        return (self.rows == index).nonzero()[:, 0]


def answers_of(expanded: ExpandedLabels) -> Answers:
    """The supervised tokens of a batch."""
    rows, places = expanded.supervised.nonzero(as_tuple=True)
    labels: Tensor = expanded.labels  # type: ignore[assignment]
    return Answers(labels[rows, places + 1], rows, places + 1, expanded.cut)


def answer_pass(
    model: Any, call: Callable[..., Any], inputs: dict[str, Any], function: Callable[[Answers, Tensor], Tensor]
) -> tuple[Any, ExpandedLabels]:
    """Run `call(**inputs)`, a forward of `model` or of what wraps it, with `function` as its head.

    `function` takes the answers and their hidden states (N, D).

    Returns:
        What `function` returned, and the batch's expanded labels.
    """
    called = False
    with capture_labels(model, hide_labels=True) as expanded:

        def head(hidden: Tensor) -> Tensor:
            nonlocal called
            called = True
            if expanded.labels is None:
                raise Ego2ExoError("a batch without labels has no answer tokens", "batches of LLaVA's own collator")
            answers = answers_of(expanded)
            return function(answers, hidden[answers.rows.to(hidden.device), answers.places.to(hidden.device) - 1])

        with substituted(model.get_output_embeddings(), forward=head):
            outputs = call(**inputs)
    if not called:
        raise Ego2ExoError(
            f"{type(model).__name__} computed its logits without calling its head",
            "a model that calls lm_head (pretraining_tp 1 in its config.json)",
            "set pretraining_tp to 1 in the base's config.json, or train without the KL",
        )
    return (outputs["logits"] if isinstance(outputs, dict) else outputs[0]), expanded


@torch.no_grad()
def answer_states(model: Any, call: Callable[..., Any], inputs: dict[str, Any]) -> tuple[Answers, Tensor]:
    """The answers of a batch and the final hidden states that predict them, (N, D): what a teacher is kept as."""
    kept: list[tuple[Answers, Tensor]] = []

    def keep(answers: Answers, hidden: Tensor) -> Tensor:
        kept.append((answers, hidden))
        return hidden.new_zeros(1)

    answer_pass(model, call, {**inputs, "use_cache": False}, keep)
    return kept[-1]


class AnswerContent:
    """Separates the tokens of answers from those of the template, which LLaVA-NeXT supervises too.

    Special tokens, tokens without any visible letter, and the role's name after a special token belong to the template;
    `role` is what the template calls the answering side, with or without its special tokens.
    """

    def __init__(self, tokenizer: Any, role: str) -> None:
        self.tokenizer = tokenizer
        self.special = frozenset(tokenizer.all_special_ids)
        name = re.sub(r"<[^>]*>", "", role).strip()
        self.role: list[int] = tokenizer(name, add_special_tokens=False).input_ids if name else []
        self._empty: dict[int, bool] = {}

    def own(self, labels: Tensor) -> Tensor:
        """(rows, length) bool: where a label is of an answer itself; labels are negative where not supervised."""
        special = _among(labels, self.special)
        empty = {value for value in labels.unique().tolist() if value >= 0 and self._is_empty(value)}
        own = (labels >= 0) & ~special & ~_among(labels, empty)
        return own & ~self._roles(labels, special)

    def _is_empty(self, token: int) -> bool:
        if token not in self._empty:
            self._empty[token] = not self.tokenizer.decode([token]).strip()
        return self._empty[token]

    def _roles(self, labels: Tensor, special: Tensor) -> Tensor:
        """Where the role's name directly follows a special token."""
        found, length, span = torch.zeros_like(special), labels.shape[1], len(self.role)
        if not span or length <= span:
            return found
        begins = special[:, : length - span].clone()
        for place, token in enumerate(self.role):
            begins &= labels[:, place + 1 : length - span + place + 1] == token
        for place in range(span):
            found[:, place + 1 : length - span + place + 1] |= begins
        return found


def _among(labels: Tensor, ids: Any) -> Tensor:
    return torch.isin(labels, torch.tensor(sorted(ids), dtype=labels.dtype, device=labels.device))


def align_answers(student: Answers, teacher: Answers, rows: list[int]) -> tuple[Tensor, Tensor, int]:
    """Pair the supervised tokens of two batches, row by row and in order.

    A row that was cut at the model's length keeps its beginning, so the common beginning of both rows is used.

    `rows` is the student's row of each of the teacher's.

    Returns:
        Indices of the pairs in the student's tokens (M,), in the teacher's (M,), and how many of the student's tokens
        in these rows have no partner.

    Raises:
        Ego2ExoError: the tokens themselves differ.
    """
    student_at, teacher_at, unmatched = [student.tokens[:0]], [teacher.tokens[:0]], 0
    for index, row in enumerate(rows):
        mine, other = student.row(row), teacher.row(index)
        count = min(len(mine), len(other))
        unmatched += len(mine) - count
        student_at.append(mine[:count])
        teacher_at.append(other[:count])
        found, expected = student.tokens[mine[:count]], teacher.tokens[other[:count]].to(student.tokens.device)
        if not torch.equal(found, expected):
            first = int((found != expected).nonzero()[0])
            raise Ego2ExoError(
                f"row {row} of a batch: answer token {first} is {int(found[first])} for the student and "
                f"{int(expected[first])} for the teacher",
                "the same answer tokens for both",
                "use one tokenizer and one conversation template; prompts that differ must not be supervised",
            )
    return torch.cat(student_at), torch.cat(teacher_at), unmatched
