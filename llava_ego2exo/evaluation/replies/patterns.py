"""Options named by their keys in a reply: the shapes that count, as patterns for one set of keys."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# What may follow a key without brackets. "A" and "I" are words too, and numbers count things: with an ordinary word
# behind them they are no keys. Nor are the letters of "A.M.", "D-day" and "C'est", nor the number of "3.5".
_FOLLOWING = (
    r"(?:because|since|as|and|or|but|which|that|for|due|is|would\s+be|seems|fits|matches|best|rather|instead|not"
    r"|does)\b"
)
_END = rf"(?=\s*(?:$|[;!?()\[\]}}\"/&–—\n]|[.:](?!\d)(?!\w\b)|,(?!\d)|'(?!\w)|-(?!\w))|\s+{_FOLLOWING})"
_NOUN = r"(?:answer|choice|option|selection|response|action|solution|guess|conclusion|correct)"
_IS = r"(?:(?<!\w)(?:is|are|was|be|becomes)(?!\w)|[:=→]|->)"
_SURELY = r"(?:(?:also|most|very|likely|probably|clearly|definitely|indeed|actually|still|then|therefore|thus)\s+){0,2}"
_CALLED = r"(?:(?:the\s+)?(?:option|choice|letter|number|answer)\s+)?"
_TAKE = r"(?:choose|chose|pick|picked|select|selected|go\s+with|going\s+with|opt\s+for|answer\s+with)"
_SO = (
    r"(?:(?:so|thus|therefore|hence|consequently)\b,?|(?:no|wait|actually)\s*[,:–—-])\s+"
    r"(?:(?:it|this|that|the\s+\w+)(?:'s|\s+is)\s+)?"
)
_GOOD = (
    r"(?:(?:is|would\s+be|seems|seems\s+to\s+be)\s+(?:the\s+)?"
    r"(?:correct|right|best|true|most\s+likely|most\s+accurate|most\s+appropriate|answer|my\s+answer)"
    r"|(?:best\s+)?(?:fits|matches|describes)\b)"
)
_BAD = (
    r"(?:(?:is|are|was|would\s+be|seems)\s*(?:also\s+|clearly\s+)?(?:not\b|n't\b|wrong|incorrect|false|unlikely)"
    r"|(?:does|do|did)\s*(?:not\b|n't\b)|can(?:not|'t)\b|[:–—-]\s*(?:no|false|wrong|incorrect)\b)"
)
_NOT = r"(?:\bnot|n't|\bneither|\bnor|\bnever|\bnone\s+of|\bexcept|\brather\s+than|\binstead\s+of|\bthan)"
_OF = r"(?:(?:be|is|the|both|either|options?|choices?|letters?|numbers?|answers?)\s+){0,3}"
_AND = r"(?:,|/|&|[-–](?=\w)|(?:and/or|and|or|nor|as\s+well\s+as)\b)\s*(?:(?:and|or|nor)\s+)?"


@dataclass(frozen=True)
class KeyPatterns:
    """The patterns for one set of keys; the one group that takes part in a match is the key (of `head`, "key" is)."""

    bare: re.Pattern[str]  # the whole reply is a key
    line: re.Pattern[str]  # a line is
    head: re.Pattern[str]  # the reply begins with a key, as a label ("3. ...") or before an ordinary word
    item: re.Pattern[str]  # a label anywhere, as in a list of options
    one: re.Pattern[str]  # a key as a word
    declared: tuple[re.Pattern[str], ...]  # a key is said to be the answer
    named: tuple[re.Pattern[str], ...]  # a key is named, in a way that only keys are
    another: re.Pattern[str]  # right behind a key: another one, so that several are named at once
    denied: re.Pattern[str]  # keys with what denies them before
    wrong: re.Pattern[str]  # right behind a key: it is said to be wrong


@functools.lru_cache(maxsize=1024)
def patterns(keys: tuple[str, ...]) -> KeyPatterns:
    """The patterns for these keys; a key without a letter or digit is never found."""
    known = [key for key in keys if re.search(r"\w", key)]
    one = "|".join(re.escape(key) for key in sorted(known, key=len, reverse=True)) or r"(?!)"
    apart = r"(?<!\w)(?<!\w')"
    free = rf"{apart}(?P<key>{one})(?!\w){_END}"
    closed = rf"[(\[{{]\s*(?P<closed>(?i:{one}))\s*[)\]}}]"
    half = rf"{apart}(?P<half>{one})\)"
    # In lower case a key is taken only where nothing but a stop follows: "a" is a word too.
    small = rf"{apart}(?P<small>(?i:{one}))(?=[\s\"']*(?:[.!)]?\s*$|[.!]\s))"
    said = rf"{_NOUN}\b[^.\n]{{0,60}}?{_IS}\s*[\"']?\s*{_SURELY}|\b{_TAKE}\s+|\b{_SO}"
    declared = [rf"(?i:(?:{said}){_CALLED})(?:{free}|{closed}|{half}|{small})"]
    declared += [rf"(?i:\\boxed\s*)\{{[\s{{(]*(?P<key>{one})(?!\w)", rf"(?:{free}|{closed})(?i:\s+{_GOOD})"]
    named = [closed, half, rf"(?i:\b(?:option|choice)\s+)(?P<key>{one})(?!\w)"]
    named += [rf"^\W*{free}", rf"^\W*(?P<key>(?i:{one}))[.):]\s"]
    named += [rf"(?i:(?:\b(?:is|be|but|say|think|guess|believe|it's|that's)\s+{_SURELY}|[,:;.]\s+)){free}"]
    item = rf"[(\[]?(?<!\w)(?:{one})(?!\w)[)\]]?"
    signs = r"[^\w\n]*"
    return KeyPatterns(
        re.compile(rf"\W*(?i:(?:{_NOUN}|number|letter)\W*)?(?P<key>(?i:{one}))(?:\W+(?P=key)(?!\w))*\W*"),
        re.compile(rf"^{signs}(?i:(?:option|choice|answer)\b{signs})?(?P<key>{one}){signs}$", re.MULTILINE),
        re.compile(
            rf"\W*(?P<key>{one}|(?i:{one})(?=[.):]\s))(?!\w)(?P<label>[)\]]?\s*[.):,;–—-](?!\d)|[)\]])?\W*(?=\w)"
        ),
        re.compile(rf"(?<!\S)[(\[]?(?P<key>{one})[.):\]](?!\S)"),
        re.compile(rf"(?<!\w)(?P<key>{one})(?!\w)"),
        tuple(map(re.compile, declared)),
        tuple(map(re.compile, named)),
        re.compile(rf"[)\]]?\s*(?:\([^()\n]{{0,80}}\)\s*)?(?i:{_AND}{_CALLED})[(\[]?(?P<key>{one})(?!\w){_END}"),
        re.compile(rf"(?i:{_NOT}\s+{_OF}){item}(?:\s*(?i:{_AND}{_CALLED}){item}(?!\s+(?i:{_GOOD})))*"),
        re.compile(rf"[)\]]?\s*(?<!\w(?=\w))(?i:{_BAD})"),
    )


@dataclass(frozen=True)
class KeyMention:
    """An option named by its key, which stands in the reply from `start` to `end`."""

    key: str
    start: int
    end: int
    declared: bool  # it is said to be the answer, not only named
    label: bool = False  # it stands at the reply's beginning with a stop or bracket, as in "3. stirring"


def bare_key(reply: str, keys: Iterable[str]) -> str | None:
    """The key that a whole reply is, in brackets, with a stop or after "Answer:"."""
    known = tuple(keys)
    match = patterns(known).bare.fullmatch(reply)
    return _resolved(match["key"], known) if match else None


def _resolved(text: str, keys: tuple[str, ...]) -> str | None:
    """The key that a text in any case means; None where two differ in case alone."""
    if text in keys:
        return text
    alike = [key for key in keys if key.lower() == text.lower()]
    return alike[0] if len(alike) == 1 else None


def leading_key(reply: str, keys: Iterable[str]) -> KeyMention | None:
    """The key that a reply begins with, before further words; `label` says whether a stop or bracket is behind it."""
    known = tuple(keys)
    match = patterns(known).head.match(reply)
    key = _resolved(match["key"], known) if match else None
    if match is None or key is None:
        return None
    return KeyMention(key, match.start("key"), match.end("key"), False, match["label"] is not None)


def is_option_list(reply: str, keys: Iterable[str]) -> bool:
    """Whether a reply is a list: labels of several keys stand in it ("1. He enters. 2. He sits.")."""
    return _one_key(patterns(tuple(keys)).item, reply) is False


def key_mentions(reply: str, keys: Iterable[str]) -> list[KeyMention]:
    """Every option that a reply names by its key and does not deny, in order of place."""
    known = tuple(keys)
    compiled = patterns(known)
    denied = set(_negated_places(reply, compiled))
    found: dict[int, KeyMention] = {}
    for one in _all_mentions(reply, compiled, known):
        if one.start not in found and one.start not in denied and not compiled.wrong.match(reply, one.end):
            found[one.start] = one
    return [found[start] for start in sorted(found)]


def _all_mentions(reply: str, compiled: KeyPatterns, keys: tuple[str, ...]) -> Iterator[KeyMention]:
    # A key in a line of its own declares, unless several have such lines. A label alone means nothing ("vitamin C.").
    declaring = (compiled.line,) if _one_key(compiled.line, reply) else ()
    naming = (compiled.line,) if _one_key(compiled.item, reply) else (compiled.line, compiled.item)
    for declared, group in ((True, (*declaring, *compiled.declared)), (False, (*compiled.named, *naming))):
        for pattern in group:
            for match in pattern.finditer(reply):
                shape = match.lastgroup or "key"
                key = _resolved(match[shape], keys)
                if key is not None:
                    yield KeyMention(key, match.start(shape), match.end(shape), declared)


def _one_key(pattern: re.Pattern[str], reply: str) -> bool | None:
    """Whether one key alone stands in such a way; None: none does."""
    keys = {match["key"] for match in pattern.finditer(reply)}
    return len(keys) == 1 if keys else None


def _negated_places(reply: str, compiled: KeyPatterns) -> Iterator[int]:
    """Where keys begin that are denied: those of "neither A nor B"."""
    for match in compiled.denied.finditer(reply):
        for one in compiled.one.finditer(reply, match.start(), match.end()):
            yield one.start("key")


def names_another(reply: str, one: KeyMention, keys: Iterable[str]) -> bool:
    """Whether another option stands right beside: "A and C", "B or D"."""
    compiled = patterns(tuple(keys))
    match = compiled.another.match(reply, one.end)
    return match is not None and match["key"] != one.key and not compiled.wrong.match(reply, match.end("key"))
