"""Cross-entropy on the teacher's answer and divergence from its token distribution, chunk by chunk (section 3.1).

Both start from the hidden states before the language model's head, so that the logits of a whole batch (answer tokens *
vocabulary, in float32, for student and teacher) never exist: each chunk's logits are made, reduced to two numbers and
thrown away, and made once more for the gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..errors import Ego2ExoError
from .divergence import Divergence

Head = Callable[[Tensor], Tensor]
# Logits in one chunk: 64 MiB in float32. Some five tensors of this size live at once.
MAX_ELEMENTS = 2**24
FORWARD = Divergence()


class Teacher(Protocol):
    """The teacher's distributions over M answer tokens."""

    def __len__(self) -> int: ...

    def part(self, first: int, last: int) -> Teacher:
        """Tokens `first` to `last`, the latter not included."""

    def apart(self, logits: Tensor, divergence: Divergence) -> Tensor:
        """The divergence, summed over tokens; `logits` are the student's, (n, V) in float32."""


@dataclass(frozen=True)
class FullTeacher:
    """A teacher over its whole vocabulary, kept as hidden states; its logits are made with each chunk's."""

    head: Head  # maps (n, D') to (n, V)
    hidden: Tensor  # (M, D'), the teacher's final hidden states that predict the tokens

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def part(self, first: int, last: int) -> FullTeacher:
        return FullTeacher(self.head, self.hidden[first:last])

    def apart(self, logits: Tensor, divergence: Divergence) -> Tensor:
        with torch.no_grad():
            taught = self.head(self.hidden).float()
        require_equal_vocabularies(logits.shape[-1], taught.shape[-1])
        return divergence(taught, logits)


@dataclass(frozen=True)
class TopKTeacher:
    """A teacher's k largest logits of each token.

    Both distributions are renormalised over these k tokens: what the teacher thought of the others is not known. For
    k = V this is the divergence over the whole vocabulary; for small k it does not see what the student gives to other
    tokens (the cross-entropy does).
    """

    ids: Tensor  # (M, k) int64, tokens of the vocabulary
    logits: Tensor  # (M, k), any float dtype

    def __len__(self) -> int:
        return self.ids.shape[0]

    def part(self, first: int, last: int) -> TopKTeacher:
        return TopKTeacher(self.ids[first:last], self.logits[first:last])

    def apart(self, logits: Tensor, divergence: Divergence) -> Tensor:
        return divergence(self.logits.float(), logits.gather(-1, self.ids))


def require_equal_vocabularies(student: int, teacher: int) -> None:
    """Refuse a KL between distributions over different tokens."""
    if student != teacher:
        raise Ego2ExoError(
            f"the student's vocabulary has {student} tokens, the teacher's {teacher}",
            "equal vocabularies for the KL",
            "take a teacher of the same language model, or train on its answers alone (sequence distillation, which "
            "needs no equal vocabulary): --ego2exo_kd_weight 0",
        )


def distillation_sums(
    head: Head,
    hidden: Tensor,
    labels: Tensor,
    teacher: Teacher | None = None,
    divergence: Divergence = FORWARD,
    max_elements: int = MAX_ELEMENTS,
) -> Tensor:
    """Cross-entropy and divergence of answer tokens.

    Args:
        head: the student's, maps (n, D) to (n, V); called twice for each chunk where gradients are on.
        hidden: (N, D), the student's final hidden states that predict the tokens.
        labels: (N,) int64, the tokens.
        teacher: its distributions over the first M <= N of them; the others get cross-entropy alone.
        divergence: between teacher and student.
        max_elements: most logits of one chunk.

    Returns:
        (2,) float32: the sums of cross-entropy over N tokens and of the divergence over M. With N = 0 both are zero,
        tied to the student's graph with a zero gradient.

    Raises:
        Ego2ExoError: the teacher speaks of more tokens than there are, or of another vocabulary.
    """
    known = 0 if teacher is None else len(teacher)
    if known > labels.shape[0]:
        raise Ego2ExoError(f"a teacher's {known} tokens for {labels.shape[0]} answer tokens", "at most as many")
    with torch.no_grad():  # the vocabulary's size by an empty call, as a head may be wrapped by its host
        size = max(1, max_elements // head(hidden[:0]).shape[-1])
    sums = hidden.new_zeros(2, dtype=torch.float32)
    for first, last in _chunks(known, labels.shape[0], size):
        part = teacher.part(first, last) if teacher is not None and first < known else None
        sums = sums + checkpoint(
            _chunk_sums, head, hidden[first:last], labels[first:last], part, divergence,
            use_reentrant=False, preserve_rng_state=False,
        )  # fmt: skip
    return sums


def _chunks(known: int, total: int, size: int) -> list[tuple[int, int]]:
    """Ranges of at most `size` tokens, none across `known`; one empty range where there is no token."""
    ranges = []
    for start, end in ((0, known), (known, total)):
        ranges += [(first, min(first + size, end)) for first in range(start, end, size)]
    return ranges or [(0, 0)]


def _chunk_sums(head: Head, hidden: Tensor, labels: Tensor, teacher: Teacher | None, divergence: Divergence) -> Tensor:
    logits = head(hidden).float()
    entropy = F.cross_entropy(logits, labels, reduction="sum")
    apart = logits[:0].sum() if teacher is None else teacher.apart(logits, divergence)
    return torch.stack([entropy, apart])
