"""Where a reply names options by their keys: "(C)", "3. Cleaning dishes", "the answer is C because ...", "so B."."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# What may follow a key without brackets. "A" and "I" are words too, and numbers count things: with an ordinary word
# behind them they are no keys.
_GOES_ON = r"(?:because|since|as|and|or|but|which|that|for|due|is|seems|rather|instead|not)\b"
_END = rf"(?=\s*(?:$|[.,:;!?)\]}}\"'\-–—/&]|\n)|\s+{_GOES_ON})"
_NOUN = r"(?:answer|choice|option|selection|response|action|solution)"
_IS = r"(?:is|are|was|be|becomes|:|=|->|→)"
_CALLED = r"(?:(?:the\s+)?(?:option|choice|letter|number|answer)\s+)?"
_TAKE = r"(?:choose|chose|pick|picked|select|selected|go\s+with|going\s+with|opt\s+for|answer\s+with)"
_GOOD = r"(?:correct|right|best|true|most\s+likely|most\s+accurate|most\s+appropriate|the\s+answer|my\s+answer)"
_BAD = r"(?:not\b|n't\b|wrong|incorrect|false|unlikely)"
_NOT = re.compile(
    r"(?:\bnot|n't|\bneither|\bnor|\bnever|\bexcept|\brather\s+than|\binstead\s+of|\bwrong|\bthan)"
    r"\s+(?:(?:be|the|option|choice|letter|number|answer|is)\s+){0,3}[(\[]?$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Named:
    """An option named by its key.

    Args:
        key: of the option.
        start: where the key begins in the reply.
        end: where what belongs to it ends, a bracket included.
        declared: it is said to be the answer, not only named.
    """

    key: str
    start: int
    end: int
    declared: bool


@dataclass(frozen=True)
class KeyPatterns:
    """The patterns for one set of keys, compiled once.

    Args:
        bare: the whole reply is a key.
        declared: a key is said to be the answer.
        named: a key is named, in a way that only keys are.
        another: right behind a key: another one, so that several are named at once.
        denied: right behind a key: it is said to be wrong.
    """

    bare: re.Pattern[str]
    declared: tuple[re.Pattern[str], ...]
    named: tuple[re.Pattern[str], ...]
    another: re.Pattern[str]
    denied: re.Pattern[str]


@functools.lru_cache(maxsize=1024)
def patterns(keys: tuple[str, ...]) -> KeyPatterns:
    """The patterns for these keys."""
    one = "|".join(re.escape(key) for key in sorted(keys, key=len, reverse=True))
    free = rf"(?<![\w'])(?P<key>{one})(?!\w){_END}"
    closed = rf"[(\[{{]\s*(?P<key>(?i:{one}))\s*[)\]}}]"
    half = rf"(?<![\w'])(?P<key>{one})\)"
    lead = rf"{_NOUN}\b[^.\n]{{0,60}}?(?<!\w){_IS}\s*[\"'“]?{_CALLED}"
    # In lower case a key is taken only where nothing but a stop follows: "a" is a word too.
    small = rf"(?<![\w'])(?P<key>(?i:{one}))(?=\s*(?:[.!)]?\s*$|[.!]\s))"
    declared = [rf"(?i:{lead})(?:{kind})" for kind in (free, closed, half, small)]
    declared += [rf"(?i:\b{_TAKE}\s+{_CALLED})(?:{kind})" for kind in (free, closed, half, small)]
    declared += [rf"(?i:\\boxed\s*)\{{\s*(?:\\text\s*\{{)?\s*(?P<key>{one})(?!\w)"]
    declared += [rf"(?:{kind})(?i:\s+(?:is|would\s+be|seems)\s+(?:the\s+)?{_GOOD})" for kind in (free, closed)]
    named = [closed, rf"(?i:\b(?:option|choice)\s+)(?P<key>{one})(?!\w)"]
    named += [rf"^\W*(?P<key>{one})(?:\s*[.):,;\-–—]|{_END})"]
    named += [rf"(?i:(?:[,:;.]|\b(?:is|be|so|thus|therefore|hence|but|say|think|guess|believe))\s+){free}"]
    return KeyPatterns(
        re.compile(rf"\W*(?i:(?:{_NOUN}|number|letter)\W*)?(?P<key>(?i:{one}))\W*"),
        tuple(map(re.compile, declared)),
        tuple(map(re.compile, named)),
        re.compile(
            rf"[)\]]?\s*(?:,|/|&|(?i:and|or|and/or))\s*(?i:(?:and|or)\s+)?{_CALLED}[(\[]?(?P<key>{one})(?!\w){_END}"
        ),
        re.compile(rf"[)\]]?\s+(?i:(?:is|are|was|would\s+be|seems)\s*(?:also\s+)?{_BAD}|cannot\b|can't\b)"),
    )


def named_in(reply: str, keys: Iterable[str]) -> list[Named]:
    """Every option that a reply names by its key and does not deny, in order of place."""
    known = tuple(keys)
    compiled = patterns(known)
    found: dict[int, Named] = {}
    for declared, group in ((True, compiled.declared), (False, compiled.named)):
        for one in _all(reply, group, known, declared):
            if one.start not in found and not _denied(reply, one, compiled):
                found[one.start] = one
    return [found[start] for start in sorted(found)]


def _all(reply: str, group: Iterable[re.Pattern[str]], keys: tuple[str, ...], declared: bool) -> Iterator[Named]:
    for pattern in group:
        for match in pattern.finditer(reply):
            key = known_key(match["key"], keys)
            if key is not None:
                yield Named(key, match.start("key"), match.end("key"), declared)


def known_key(text: str, keys: tuple[str, ...]) -> str | None:
    """The key that a text in any case means; None where two differ in case alone."""
    if text in keys:
        return text
    alike = [key for key in keys if key.lower() == text.lower()]
    return alike[0] if len(alike) == 1 else None


def bare_key(reply: str, keys: Iterable[str]) -> str | None:
    """The key that a whole reply is, in brackets, with a stop or after "Answer:"."""
    known = tuple(keys)
    match = patterns(known).bare.fullmatch(reply)
    return known_key(match["key"], known) if match else None


def several(reply: str, one: Named, keys: Iterable[str]) -> bool:
    """Whether another option stands right beside: "A and C", "B or D"."""
    match = patterns(tuple(keys)).another.match(reply, one.end)
    return match is not None and match["key"] != one.key


def _denied(reply: str, one: Named, compiled: KeyPatterns) -> bool:
    return bool(_NOT.search(reply[max(one.start - 60, 0) : one.start]) or compiled.denied.match(reply, one.end))
