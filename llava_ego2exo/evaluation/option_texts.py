"""Texts of options and replies as words: their stems, so that inflections count as the same, and the stops between."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ..errors import Ego2ExoError

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
# Words that an option may lack or have without naming another one.
_SILENT = frozenset("a an the this that these those his her its their some is are was were be been being".split())
COMMA, STOP = 1, 2


@dataclass(frozen=True)
class Words:
    """A text as stems.

    Args:
        stems: of the words that count.
        places: of each, its number among all words.
        plain: all words in lower case.
        breaks: of each word, what stands right before it: 0 nothing, `COMMA`, or `STOP` (an end of a sentence or line).
    """

    stems: tuple[str, ...]
    places: tuple[int, ...]
    plain: tuple[str, ...]
    breaks: tuple[int, ...]


def words_of(text: str, initials: Collection[str] | None = None) -> Words:
    """The words of a text, and the stems of those that count.

    Args:
        text: cleaned, see `reply_text.cleaned`.
        initials: only words that begin with one of these letters are stemmed, which keeps long replies cheap; no stem
            of other words can be that of a word with such a beginning. None: all.
    """
    found = list(_WORD.finditer(text))
    plain = tuple(match.group().lower() for match in found)
    places = tuple(place for place, word in enumerate(plain) if word not in _SILENT)
    counting = (plain[place] for place in places)
    stems = tuple(_stem(word) if initials is None or word[0] in initials else word for word in counting)
    ends = [0, *(match.end() for match in found)]
    breaks = tuple(_break(text[end : match.start()]) for end, match in zip(ends, found, strict=False))
    return Words(stems, places, plain, breaks)


def _break(between: str) -> int:
    if between in (" ", ""):
        return 0
    return STOP if any(sign in ".;:!?\n" for sign in between) else COMMA if "," in between else 0


@functools.lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    return _stemmer().stemWord(word)


@functools.cache
def _stemmer() -> Any:
    try:
        import snowballstemmer
    except ImportError as error:
        raise Ego2ExoError("snowballstemmer is not installed", "", "pip install 'llava-ego2exo[eval]'") from error
    return snowballstemmer.stemmer("english")
