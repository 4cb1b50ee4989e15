"""Replies and options as text: cleaned, as word stems, and where in a reply an option's text stands un-negated."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import require_package

_THOUGHT = re.compile(r"<think(?:ing)?>|</think(?:ing)?>", re.IGNORECASE)
_ANSWER = re.compile(r"<answer>([^<]*)(?:</answer>|$)", re.IGNORECASE)
# Tokens such as <|im_end|>, and tags.
_TAGS = re.compile(r"<\|[^|<>]{1,40}\|>|</?[A-Za-z][A-Za-z_]{0,20}>")
_MARKS = re.compile(r"[*_`#$]+|\\(?:text(?:bf|it|rm)?|math(?:bf|rm|it))(?![A-Za-z])")
_SPEAKER = re.compile(r"\s*assistant\s*[:\n]", re.IGNORECASE)
_QUOTES = str.maketrans("‘’‚′“”„″", "''''\"\"\"\"")
_BLANKS = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" ?\n[ \n]*")


def cleaned(text: str) -> str:
    """The text without end tokens, tags, Markdown and reasoning; plain letters and quotes, single blanks and breaks."""
    plain = unicodedata.normalize("NFKC", text).translate(_QUOTES)
    plain = "".join(sign for sign in plain if sign in "\n\t" or unicodedata.category(sign) != "Cf")
    plain = _TAGS.sub("\n", _answered(plain))
    # Runs of white space would cost the patterns that look past them the square of their length.
    plain = _LINES.sub("\n", _BLANKS.sub(" ", _MARKS.sub(" ", plain)))
    return _SPEAKER.sub("", plain, count=1).strip() if _SPEAKER.match(plain) else plain.strip()


def _answered(text: str) -> str:
    """What stands behind the last thought, and in the last <answer>, where there are such tags."""
    behind = _THOUGHT.split(text)[-1]
    answers = [answer for answer in _ANSWER.findall(behind) if answer.strip()]
    return answers[-1] if answers else behind


_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
# Words that an option may lack or have without naming another one.
_SILENT = frozenset("a an the this that these those his her its their some is are was were be been being".split())
COMMA, STOP = 1, 2


@dataclass(frozen=True)
class StemmedText:
    """A text as word stems, so that inflections count as the same, and the stops between."""

    stems: tuple[str, ...]  # of the words that count
    places: tuple[int, ...]  # of each, its number among all words
    plain: tuple[str, ...]  # all words in lower case
    breaks: tuple[int, ...]  # what stands right before each word: 0 nothing, COMMA, or STOP (a sentence or line ends)


def stemmed(text: str, initials: Collection[str] | None = None) -> StemmedText:
    """The words of a cleaned text, and the stems of those that count.

    Only words that begin with one of the `initials` are stemmed (None: all), which keeps long replies cheap: no other
    word's stem can be that of a word with such a beginning.
    """
    found = list(_WORD.finditer(text))
    plain = tuple(match.group().lower() for match in found)
    places = tuple(place for place, word in enumerate(plain) if word not in _SILENT)
    counting = (plain[place] for place in places)
    stems = tuple(_stem(word) if initials is None or word[0] in initials else word for word in counting)
    ends = [0, *(match.end() for match in found)]
    breaks = tuple(_break(text[end : match.start()]) for end, match in zip(ends, found, strict=False))
    return StemmedText(stems, places, plain, breaks)


def _break(between: str) -> int:
    if between in (" ", ""):
        return 0
    return STOP if any(sign in ".;:!?\n" for sign in between) else COMMA if "," in between else 0


@functools.lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    return _stemmer().stemWord(word)


@functools.cache
def _stemmer() -> Any:
    return require_package("snowballstemmer", "eval").stemmer("english")


NEGATIONS = frozenset("not never neither nor without cannot no none".split())
_PAIRS = frozenset({("rather", "than"), ("instead", "of")})
_CONTRASTS = frozenset("but however instead though yet".split())
_VERBS = frozenset("is are was were would seems does do did can could has have".split())
_WRONG = frozenset("not never wrong incorrect false unlikely".split())
# How many words before a text its negation may stand, and how many where a comma is between ("not walking, drinking").
_REACH, _PAST_COMMA = 8, 3


def is_negated(reply: StemmedText, first: int, end: int) -> bool:
    """Whether what stands from stem `first` up to `end` is negated: "not walking", "walking is wrong"."""
    return _before(reply, reply.places[first]) or _behind(reply, reply.places[end - 1] + 1)


def _before(reply: StemmedText, place: int) -> bool:
    reach, past_comma = _REACH, False
    for at in range(place - 1, max(place - 1 - _REACH, -1), -1):
        if reply.breaks[at + 1] == STOP:
            return False
        if reply.breaks[at + 1] == COMMA:
            reach, past_comma = _PAST_COMMA, True
        if place - at > reach:
            return False
        word, following = reply.plain[at], reply.plain[at + 1]
        if (word, following) in _PAIRS or word.endswith("n't"):
            return True
        if word in _CONTRASTS:
            return False
        if word in NEGATIONS and not (word == "no" and past_comma):  # "No, he is walking"
            return True
    return False


def _behind(reply: StemmedText, place: int) -> bool:
    following = reply.plain[place : place + 2]
    if not following or reply.breaks[place]:
        return False
    if following[0] == "cannot" or following[0].endswith("n't"):
        return True
    return following[0] in _VERBS and following[1:] != () and following[1] in _WRONG


# How many words may stand inside an option's text: "pouring water from a kettle" for `pouring from kettle`.
_GAP = 2
# Words that part what is done: "sits and lies down" is not `sit down`.
_PARTING = NEGATIONS | {"and", "or", "then", "but"}


@dataclass(frozen=True)
class TextSpan:
    """Where an option's text stands in a reply: from stem `first` up to but not including `end`."""

    key: str
    first: int
    end: int


def equal_options(reply: StemmedText, options: Mapping[str, StemmedText]) -> list[str]:
    """The options whose text a whole reply is."""
    alike = [key for key, option in options.items() if option.stems and option.stems == reply.stems]
    return _literal(reply, alike, options)


def option_spans(reply: StemmedText, options: Mapping[str, StemmedText]) -> list[TextSpan]:
    """The options' texts that stand in a reply, in any inflection, and are not negated there.

    Of texts inside another's the longer one counts. Only where none stands word for word, up to two other words may
    stand between an option's words.
    """
    there = frozenset(reply.stems)
    held = {key: option for key, option in options.items() if option.stems and there.issuperset(option.stems)}
    for gap in (0, _GAP):
        spans = [span for key, option in held.items() for span in _spans(reply, key, option, gap)]
        spans = [span for span in _outermost(spans) if not is_negated(reply, span.first, span.end)]
        if spans:
            stems = {options[span.key].stems for span in spans}
            twins = [[key for key, option in options.items() if option.stems == one] for one in stems]
            literal = {key for keys in twins for key in _literal(reply, keys, options)}
            return [span for span in spans if span.key in literal]
    return []


def _literal(reply: StemmedText, keys: list[str], options: Mapping[str, StemmedText]) -> list[str]:
    """Of options that differ in inflection alone, those that stand word for word; all of them where none does."""
    if len(keys) < 2:
        return keys
    text = f" {' '.join(reply.plain)} "
    return [key for key in keys if f" {' '.join(options[key].plain)} " in text] or keys


def _outermost(spans: list[TextSpan]) -> list[TextSpan]:
    """Those that stand inside no longer one."""
    kept: list[TextSpan] = []
    # By their beginnings, longer ones first: what is inside another comes behind it, and ends no later than any before.
    for span in sorted(spans, key=lambda span: (span.first, -span.end)):
        inside = bool(kept) and span.end <= kept[-1].end
        alike = inside and (span.first, span.end) == (kept[-1].first, kept[-1].end)
        if not inside or alike:
            kept.append(span)
    return kept


def _spans(reply: StemmedText, key: str, option: StemmedText, gap: int) -> list[TextSpan]:
    wanted, stems, size = option.stems, reply.stems, len(option.stems)
    starts = [first for first, stem in enumerate(stems) if stem == wanted[0]]
    if not gap:
        return [TextSpan(key, first, first + size) for first in starts if stems[first : first + size] == wanted]
    ends = ((first, _end(reply, first, option, gap)) for first in starts)
    return [TextSpan(key, first, end) for first, end in ends if end]


def _parts(reply: StemmedText, place: int) -> bool:
    return reply.plain[place] in _PARTING or bool(reply.breaks[place])


def _end(reply: StemmedText, first: int, option: StemmedText, gap: int) -> int:
    """Where an option's stems end that begin at `first`, others between them; 0: they do not stand there."""
    place = first
    for at, word in enumerate(option.stems[1:], 1):
        for step in range(place + 1, min(place + gap + 2, len(reply.stems))):
            if reply.stems[step] == word:
                place = step
                break
            if not option.breaks[option.places[at]] and _parts(reply, reply.places[step]):
                return 0
        else:
            return 0
    return place + 1
