"""Cross-entropy on the teacher's answer and divergence from its token distribution, chunk by chunk (section 3.1).

Both start from the hidden states before the language model's head, so that the logits of a whole batch (answer tokens *
vocabulary, in float32, for student and teacher) never exist: each chunk's logits are made, reduced to two numbers and
thrown away, and made once more for the gradients.
"""

from __future__ import annotations

import math
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
        """(3,): the divergence, summed over tokens; how many were above its cap; how many were left out.

        `logits` are the student's, (n, V) in float32.
        """


@dataclass(frozen=True)
class FullTeacher:
    """A teacher over its whole vocabulary, kept as hidden states; its logits are made with each chunk's.

    With `exo`, its states for the same tokens on the student's view, it leaves out tokens at which these two of its
    own distributions are further apart than `bound`: there the ego clip tells it more than the exo clip.
    """

    head: Head  # maps (n, D') to (n, V)
    hidden: Tensor  # (M, D'), the teacher's final hidden states that predict the tokens
    exo: Tensor | None = None  # (M, D')
    bound: float = math.inf

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def part(self, first: int, last: int) -> FullTeacher:
        exo = None if self.exo is None else self.exo[first:last]
        return FullTeacher(self.head, self.hidden[first:last], exo, self.bound)

    def apart(self, logits: Tensor, divergence: Divergence) -> Tensor:
        kept, left_out = None, logits.new_zeros(())
        with torch.no_grad():
            taught = self.head(self.hidden).float()
            require_equal_vocabularies(logits.shape[-1], taught.shape[-1])
            if self.exo is not None:
                kept = divergence.each(taught, self.head(self.exo).float()) <= self.bound
                left_out = (~kept).sum()
        return torch.stack([*divergence(taught, logits, kept), left_out])


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
        return torch.stack([*divergence(self.logits.float(), logits.gather(-1, self.ids)), logits.new_zeros(())])


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
    sampled: bool = False,
) -> Tensor:
    """Cross-entropy and divergence of answer tokens, and what is logged of them.

    Args:
        head: the student's, maps (n, D) to (n, V); called twice for each chunk where gradients are on.
        hidden: (N, D), the student's final hidden states that predict the tokens.
        labels: (N,) int64, the tokens.
        teacher: its distributions over the first M <= N of them; the others get cross-entropy alone.
        divergence: between teacher and student.
        max_elements: most logits of one chunk.
        sampled: the M tokens were sampled from the student itself: they get no cross-entropy, and its entropy at
            them is summed.

    Returns:
        (5,) float32: the sums of cross-entropy over N tokens (N - M where `sampled`) and of the divergence over M; of
        these M, how many were above the divergence's cap, and how many were left out; the student's entropy at them in
        nats, 0 where not `sampled`. With N = 0 all are zero, the first two tied to the student's graph with a zero
        gradient.

    Raises:
        Ego2ExoError: the teacher speaks of more tokens than there are, or of another vocabulary.
    """
    known = 0 if teacher is None else len(teacher)
    if known > labels.shape[0]:
        raise Ego2ExoError(f"a teacher's {known} tokens for {labels.shape[0]} answer tokens", "at most as many")
    with torch.no_grad():  # the vocabulary's size by an empty call, as a head may be wrapped by its host
        size = max(1, max_elements // head(hidden[:0]).shape[-1])
    sums = hidden.new_zeros(5, dtype=torch.float32)
    for first, last in _chunks(known, labels.shape[0], size):
        part = teacher.part(first, last) if teacher is not None and first < known else None
        sums = sums + checkpoint(
            _chunk_sums, head, hidden[first:last], labels[first:last], part, divergence, sampled,
            use_reentrant=False, preserve_rng_state=False,
        )  # fmt: skip
    return sums


def _chunks(known: int, total: int, size: int) -> list[tuple[int, int]]:
    """Ranges of at most `size` tokens, none across `known`; one empty range where there is no token."""
    ranges = []
    for start, end in ((0, known), (known, total)):
        ranges += [(first, min(first + size, end)) for first in range(start, end, size)]
    return ranges or [(0, 0)]


def _chunk_sums(
    head: Head, hidden: Tensor, labels: Tensor, teacher: Teacher | None, divergence: Divergence, sampled: bool
) -> Tensor:
    logits = head(hidden).float()
    none = logits[:0].sum()
    apart = torch.stack([none] * 3) if teacher is None else teacher.apart(logits, divergence)
    if teacher is None or not sampled:
        return torch.stack([F.cross_entropy(logits, labels, reduction="sum"), *apart, none])
    with torch.no_grad():
        entropy = torch.special.entr(logits.softmax(-1)).sum()
    return torch.stack([none, *apart, entropy])
