"""Where options' texts stand in a reply, whatever their inflection: "walking" for `walk`, "the kettle" for `kettle`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .denial import NEGATIONS, denied
from .option_texts import Words

# How many words may stand inside an option's text: "pouring water from a kettle" for `pouring from kettle`.
_GAP = 2
# Words that part what is done: "sits and lies down" is not `sit down`.
_PARTING = NEGATIONS | {"and", "or", "then", "but"}


@dataclass(frozen=True)
class Span:
    """Where an option's text stands in a reply: from stem `first` up to but not including `end`."""

    key: str
    first: int
    end: int


def same_text(reply: Words, options: Mapping[str, Words]) -> list[str]:
    """The options whose text a whole reply is."""
    alike = [key for key, option in options.items() if option.stems and option.stems == reply.stems]
    return _literal(reply, alike, options)


def texts_in(reply: Words, options: Mapping[str, Words]) -> list[Span]:
    """The options' texts that stand in a reply and are not denied there.

    Of texts inside another's the longer one counts. Only where none stands word for word, up to two other words may
    stand between an option's words.
    """
    there = frozenset(reply.stems)
    held = {key: option for key, option in options.items() if option.stems and there.issuperset(option.stems)}
    for gap in (0, _GAP):
        spans = [span for key, option in held.items() for span in _spans(reply, key, option, gap)]
        spans = [span for span in _outermost(spans) if not denied(reply, span.first, span.end)]
        if spans:
            literal = {key for span in spans for key in _literal(reply, _twins(span, options), options)}
            return [span for span in spans if span.key in literal]
    return []


def _twins(span: Span, options: Mapping[str, Words]) -> list[str]:
    return [key for key, option in options.items() if option.stems == options[span.key].stems]


def _literal(reply: Words, keys: list[str], options: Mapping[str, Words]) -> list[str]:
    """Of options that inflection alone tells apart, those that stand word for word; all of them where none does."""
    if len(keys) < 2:
        return keys
    text = f" {' '.join(reply.plain)} "
    return [key for key in keys if f" {' '.join(options[key].plain)} " in text] or keys


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
    wanted, stems, size = option.stems, reply.stems, len(option.stems)
    starts = [first for first, stem in enumerate(stems) if stem == wanted[0]]
    if not gap:
        return [Span(key, first, first + size) for first in starts if stems[first : first + size] == wanted]
    ends = ((first, _end(reply, first, option, gap)) for first in starts)
    return [Span(key, first, end) for first, end in ends if end]


def _parts(reply: Words, place: int) -> bool:
    return reply.plain[place] in _PARTING or bool(reply.breaks[place])


def _end(reply: Words, first: int, option: Words, gap: int) -> int:
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
