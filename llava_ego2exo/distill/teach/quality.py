"""What is wrong with an answer, by its form alone: nothing here judges whether it is true."""

from __future__ import annotations

import re

EMPTY, REPEATS, CUT = "empty", "repeats", "cut"
FLAGS = (EMPTY, REPEATS, CUT)

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+(?:['’-][^\W_]+)*")
# A unit of up to eight letters ten times in a row, such as "hahaha..." or "......".
_LETTERS = re.compile(r"(\S.{0,7}?)\1{9,}", re.DOTALL)
_LONGEST_PHRASE = 40
_TIMES, _SPAN = 3, 12
_SENTENCE_WORDS = 4
_LONG, _RUN, _NEW_SHARE = 60, 4, 0.5


def flags(answer: str, ended: bool) -> tuple[str, ...]:
    """Flags of an answer.

    Args:
        answer: its text.
        ended: the model ended it; False: the length limit did.
    """
    found = {EMPTY: not _says_something(answer), REPEATS: repeats(answer), CUT: not ended}
    return tuple(flag for flag in FLAGS if found[flag])


def repeats(answer: str) -> bool:
    """Whether the answer runs in a circle.

    It does when a phrase stands three times or more in a row over twelve words or more, a sentence of four words or
    more stands three times anywhere, some letters stand ten times in a row, or half of a long answer's runs of four
    words have been said before.
    """
    words = [word.casefold() for word in _WORD.findall(answer)]
    return bool(_LETTERS.search(answer)) or _phrase_loop(words) or _sentences(answer) or _says_little_new(words)


def _says_something(answer: str) -> bool:
    return any(letter.isalnum() for letter in answer)


def _phrase_loop(words: list[str]) -> bool:
    """Some phrase `_TIMES` times or more in a row, over `_SPAN` words or more."""
    for length in range(1, min(_LONGEST_PHRASE, len(words) // _TIMES) + 1):
        # How many words in a row equal the one `length` places before: a phrase said n times gives (n - 1) * length.
        same, needed = 0, max((_TIMES - 1) * length, _SPAN - length)
        for place in range(length, len(words)):
            same = same + 1 if words[place] == words[place - length] else 0
            if same >= needed:
                return True
    return False


def _sentences(answer: str) -> bool:
    counts: dict[tuple[str, ...], int] = {}
    for sentence in re.split(r"[.!?\n。！？]+", answer):
        words = tuple(word.casefold() for word in _WORD.findall(sentence))
        if len(words) >= _SENTENCE_WORDS:
            counts[words] = counts.get(words, 0) + 1
    return any(count >= _TIMES for count in counts.values())


def _says_little_new(words: list[str]) -> bool:
    runs = [tuple(words[start : start + _RUN]) for start in range(len(words) - _RUN + 1)]
    return len(words) >= _LONG and len(set(runs)) < _NEW_SHARE * len(runs)
