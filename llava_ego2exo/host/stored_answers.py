"""Whether the stored logits of a sample are those of its own answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import Ego2ExoError
from .stored_logits import is_key, read_logits


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


def _letters(text: str) -> str:
    """A text without its blanks, which tokenizers add and drop at their edges."""
    return "".join(text.split())
