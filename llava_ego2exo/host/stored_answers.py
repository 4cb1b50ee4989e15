"""Whether the stored logits of a sample are those of its own answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..errors import Ego2ExoError
from .alignment import Row, beginnings, find_turn
from .rehearsal import Rehearsal
from .stored_logits import is_key, read_logits
from .teacher_data import has_teacher


class StoredAnswers:
    """The logits of an answers folder against a training file.

    Args:
        folder: the answers folder.
        tokenizer: the student's.
        vocabulary: tokens of the student; None where its config does not say.
    """

    def __init__(self, folder: str, tokenizer: Any, vocabulary: int | None) -> None:
        self.folder, self.tokenizer, self.vocabulary = folder, tokenizer, vocabulary
        self._widths: set[int] = set()

    def faults(self, sample: dict[str, Any]) -> Iterator[str]:
        """What is wrong with a sample's `answer_keys`, in words."""
        answers = [turn["value"] for turn in sample["conversations"] if turn["from"] in ("gpt", "assistant")]
        keys = sample.get("answer_keys")
        if not isinstance(keys, list):
            yield 'has no answer_keys for the stored logits (general data says "replay": true)'
        elif len(keys) != len(answers):
            yield f"has {len(keys)} answer_keys for {len(answers)} answer(s)"
        else:
            for key, answer in zip(keys, answers, strict=True):
                yield from self._key_faults(key, answer)

    def _key_faults(self, key: Any, answer: str) -> Iterator[str]:
        if not is_key(key):
            yield f"has {key!r} among its answer_keys, which are 32 hex digits"
            return
        try:
            arrays = read_logits(self.folder, key)
        except Ego2ExoError as error:
            yield error.given
            return
        self._widths.add(arrays["ids"].shape[1])
        top = max(arrays["ids"].max(initial=0), arrays["tokens"].max(initial=0))
        if self.vocabulary is not None and top >= self.vocabulary:
            yield f"answer {key} speaks of token {top}, and the student's vocabulary has {self.vocabulary}"
        elif len(self._widths) > 1:
            yield f"answer {key} has another k than those before it: {sorted(self._widths)}"
        elif _letters(self.tokenizer.decode(arrays["tokens"].tolist(), skip_special_tokens=True)) != _letters(answer):
            yield f"answer {key} is another text than the sample's, or of another tokenizer"


def count_found(folder: str, samples: Sequence[dict[str, Any]], rehearsal: Rehearsal) -> tuple[int, int]:
    """Of how many answers the stored tokens stand in what the student will read, and how many answers there are.

    Args:
        folder: the answers folder.
        samples: without fault.
        rehearsal: of the run.

    Raises:
        Ego2ExoError: LLaVA cannot write a sample.
    """
    found = total = 0
    for sample in filter(has_teacher, samples):
        labels = rehearsal.labels(sample)
        places = (labels >= 0).nonzero()[:, 0]
        row, cursor = Row(labels[places].tolist(), places.tolist(), cut=False), 0
        for key in sample["answer_keys"]:
            tokens = torch.from_numpy(read_logits(folder, key)["tokens"])
            turn = {"tokens": tokens, "beginnings": beginnings(tokens.tolist(), rehearsal.tokenizer)}
            start, part = find_turn(row, turn, cursor)
            cursor = start + part.stop - part.start if part.stop > part.start else cursor
            found += part.stop > part.start
            total += 1
    return found, total


def require_found(folder: str, samples: Sequence[dict[str, Any]], rehearsal: Rehearsal) -> str:
    """How many answers will have a KL, in words.

    Raises:
        Ego2ExoError: none of those looked at.
    """
    found, total = count_found(folder, samples, rehearsal)
    text = f"KL found for {found} of {total} answers looked at"
    if total and not found:
        raise Ego2ExoError(
            f"{text}: as the student reads them, they are other tokens than the teacher wrote in {folder}",
            "answers that the student's tokenizer and --version cut as the teacher did",
            "take the teacher's own base as student, or its checkpoint as --ego2exo_teacher, or --ego2exo_kd_weight 0",
        )
    return text


def _letters(text: str) -> str:
    """A text without its blanks, which tokenizers add and drop at their edges."""
    return "".join(text.split())
