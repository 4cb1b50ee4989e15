"""Which options' texts a reply holds, whatever their inflection: "walking" for `walk`, "the kettle" for `kettle`."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import Ego2ExoError

_WORD = re.compile(r"[^\W_]+(?:['\N{RIGHT SINGLE QUOTATION MARK}][^\W_]+)?")
# Words that an option may lack or have without naming another one.
_SILENT = frozenset("a an the this that these those his her its their some is are was were be been being".split())
_NOT = frozenset("not never neither nor without no".split())
_NOT_PAIRS = frozenset({("rather", "than"), ("instead", "of")})
# How many words may stand inside an option's text: "pouring water from a kettle" for `pouring from kettle`.
_GAP = 2
# How far before a text its negation may stand, in words.
_REACH = 3


@dataclass(frozen=True)
class Words:
    """A text as stems.

    Args:
        stems: of the words that count.
        places: of each, its number among all words.
        plain: all words in lower case.
        starts: of each word, where it begins in the text.
    """

    stems: tuple[str, ...]
    places: tuple[int, ...]
    plain: tuple[str, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True)
class Span:
    """Where an option's text stands in a reply: from stem `first` up to but not including `end`."""

    key: str
    first: int
    end: int


def words_of(text: str) -> Words:
    """The words of a text, and the stems of those that count."""
    found = list(_WORD.finditer(text))
    plain = tuple(match.group().lower() for match in found)
    places = tuple(place for place, word in enumerate(plain) if word not in _SILENT)
    return Words(tuple(_stem(plain[place]) for place in places), places, plain, tuple(m.start() for m in found))


def texts_in(reply: Words, choices: Mapping[str, Words]) -> list[Span]:
    """The options' texts that stand in a reply and are not denied there.

    Of texts inside another's the longer one counts. Only where none stands word for word, up to two other words may
    stand between an option's words.
    """
    for gap in (0, _GAP):
        spans = [span for key, option in choices.items() for span in _spans(reply, key, option, gap)]
        spans = [span for span in _outermost(spans) if not _denied(reply, span)]
        if spans:
            return spans
    return []


def _outermost(spans: list[Span]) -> list[Span]:
    """Those that stand inside no longer one."""
    kept: list[Span] = []
    # By their beginnings, longer ones first: what is inside another comes behind it, and ends no later than any before.
    for span in sorted(spans, key=lambda span: (span.first, -span.end)):
        inside = bool(kept) and span.end <= kept[-1].end
        alike = inside and (span.first, span.end) == (kept[-1].first, kept[-1].end)
        if not inside or alike:
            kept.append(span)
    return kept


def _spans(reply: Words, key: str, option: Words, gap: int) -> list[Span]:
    wanted, found = option.stems, []
    if not wanted:
        return []
    for first, stem in enumerate(reply.stems):
        if stem == wanted[0]:
            end = _end(reply.stems, first, wanted, gap)
            if end:
                found.append(Span(key, first, end))
    return found


def _end(stems: Sequence[str], first: int, wanted: Sequence[str], gap: int) -> int:
    """Where the wanted stems end that begin at `first`; 0: they do not stand there."""
    place = first
    for word in wanted[1:]:
        for step in range(1, gap + 2):
            if place + step < len(stems) and stems[place + step] == word:
                place += step
                break
        else:
            return 0
    return place + 1


def _denied(reply: Words, span: Span) -> bool:
    place = reply.places[span.first]
    before = reply.plain[max(place - _REACH, 0) : place]
    if "but" in before:  # "not walking but sitting"
        before = before[len(before) - before[::-1].index("but") :]
    pairs = set(zip(before, before[1:], strict=False))
    return any(word in _NOT or word.endswith("n't") for word in before) or bool(pairs & _NOT_PAIRS)


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
