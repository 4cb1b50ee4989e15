"""Replies and options as word stems, and where in a reply an option's text stands un-negated."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import require_package

# A number is one word with its sign, decimals, thousands, minutes and per cent: "1.5" does not hold "1".
_WORD = re.compile(
    r"(?:\b(?:minus|negative) |(?<![\w%)])-)?(?:(?<!\w)\.)?(?<!\w)\d+(?:[.,:/]\d+)*[^\W_]*(?: ?%)?|[^\W_]+(?:'[^\W_]+)?"
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
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
    plain = tuple(_word(match.group()) for match in found)
    places = tuple(place for place, word in enumerate(plain) if word not in _SILENT)
    counting = (plain[place] for place in places)
    stems = tuple(_stem(word) if initials is None or word[0] in initials else word for word in counting)
    ends = [0, *(match.end() for match in found)]
    breaks = tuple(_break(text[end : match.start()]) for end, match in zip(ends, found, strict=False))
    return StemmedText(stems, places, plain, breaks)


def _word(text: str) -> str:
    return text.lower() if text.isalpha() else _THOUSANDS.sub("", text.replace(" ", "")).lower()


def _break(between: str) -> int:
    if between in (" ", ""):
        return 0
    return STOP if any(sign in ".;:!?\n。" for sign in between) else COMMA if "," in between else 0


@functools.lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    return _stemmer().stemWord(word)


@functools.cache
def _stemmer() -> Any:
    return require_package("snowballstemmer", "eval").stemmer("english")


# Who acts: "3. The person is stirring" says what "3. stirring" does, and ", he sits" begins a clause.
ACTORS = frozenset("person people man men woman women boy girl someone somebody he she they individu".split())
_OPENING = ACTORS | frozenset("it there so thus hence therefore".split())
NEGATIONS = frozenset("not never neither nor without cannot no none unlikely doubt".split())
_PAIRS = frozenset({("rather", "than"), ("instead", "of")})
# "no doubt", "not only": these deny nothing.
_NEUTRAL = frozenset("doubt question only just merely".split())
_CONTRASTS = frozenset("but however instead though yet".split())
_VERBS = frozenset("is are was were would seems does do did can could has have".split())
_WRONG = frozenset("not never wrong incorrect false unlikely".split())
_JOINING = frozenset("and or nor also even".split())
# How many words before a text its negation may stand, how many where a comma is between ("not walking, drinking"), and
# how many in a list that "or" ends.
_REACH, _PAST_COMMA, _LIST = 8, 3, 30


def _unnegated(reply: StemmedText, spans: list[TextSpan]) -> list[TextSpan]:
    """The spans that are not negated: neither "not walking" nor "walking is wrong", alone or in a list."""
    kept: list[TextSpan] = []
    following, wrong = 0, False  # where the span behind begins, and whether it is said to be wrong
    for span in sorted(spans, key=lambda span: span.first, reverse=True):
        first, end = reply.places[span.first], reply.places[span.end - 1] + 1
        listed = wrong and _joined(reply, end, following)
        following, wrong = first, listed or _behind(reply, end)
        if not wrong and not _before(reply, first, end):
            kept.append(span)
    return kept[::-1]


def _joined(reply: StemmedText, end: int, following: int) -> bool:
    """Whether two texts are parts of one list: commas, "and" and "or" alone stand between."""
    if STOP in reply.breaks[end : following + 1]:
        return False
    return all(word in _JOINING or word in _SILENT for word in reply.plain[end:following])


def _before(reply: StemmedText, first: int, end: int) -> bool:
    limit, listed = _REACH, _in_list(reply, first, end)
    for at in range(first - 1, max(first - 1 - (_LIST if listed else _REACH), -1), -1):
        behind = reply.breaks[at + 1]
        if behind == STOP or (behind == COMMA and _begins_clause(reply, at + 1)):
            return False
        limit = _PAST_COMMA if behind == COMMA else limit
        if first - at > limit and not listed:
            return False
        word, following = reply.plain[at], reply.plain[at + 1]
        if (word, following) in _PAIRS:
            return True
        if word in _CONTRASTS:
            return False
        # "No, he is walking" denies what was asked.
        negates = word.endswith("n't") or (word in NEGATIONS and not (word == "no" and behind))
        if negates and _NEUTRAL.isdisjoint(reply.plain[at + 1 : at + 3]):
            return word != "doubt" or NEGATIONS.isdisjoint(reply.plain[max(at - 2, 0) : at])
    return False


def _in_list(reply: StemmedText, first: int, end: int) -> bool:
    """Whether "or" or "nor" stands right before a text, or behind it in the same clause."""
    if not {"or", "nor"}.isdisjoint(reply.plain[max(first - 2, 0) : first]):
        return True
    for at in range(end, min(end + _LIST, len(reply.plain))):
        if reply.breaks[at] == STOP or reply.plain[at] in _CONTRASTS or _begins_clause(reply, at):
            return False
        if reply.plain[at] in ("or", "nor"):
            return True
    return False


def _begins_clause(reply: StemmedText, at: int) -> bool:
    """Whether one who acts stands at a place, behind an article or not: ", the man"."""
    return not _OPENING.isdisjoint(reply.plain[at : at + (2 if reply.plain[at] == "the" else 1)])


def _behind(reply: StemmedText, place: int) -> bool:
    following = reply.plain[place : place + 2]
    if not following or reply.breaks[place]:
        return False
    if following[0] == "cannot" or following[0].endswith("n't"):
        return True
    return following[0] in _VERBS and following[1:] != () and following[1] in _WRONG


# Behind "no" these begin a clause of their own ("No he sits"); any other word is what there is none of.
_AFTER_NO = (ACTORS | _SILENT | frozenset("because since as it there i we you yes".split())) - {"person", "people"}


def _is_determiner(reply: StemmedText, span: TextSpan) -> bool:
    """Whether a text is the "no" of "no cups", which answers nothing."""
    behind = reply.places[span.end - 1] + 1
    if reply.plain[reply.places[span.first] : behind] != ("no",) or behind == len(reply.plain):
        return False
    return not reply.breaks[behind] and reply.plain[behind] not in _AFTER_NO


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
        spans = _unnegated(reply, [span for span in _outermost(spans) if not _is_determiner(reply, span)])
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
