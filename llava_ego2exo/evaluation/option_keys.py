"""Which options a reply names by their keys, and which of them it denies: "the answer is C because ...", "not A"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .key_patterns import KeyPatterns, patterns


@dataclass(frozen=True)
class Named:
    """An option named by its key.

    Args:
        key: of the option.
        start: where the key begins in the reply.
        end: where the key ends.
        declared: it is said to be the answer, not only named.
        label: it stands at the reply's beginning with a stop or bracket, as in "3. stirring".
    """

    key: str
    start: int
    end: int
    declared: bool
    label: bool = False


def bare_key(reply: str, keys: Iterable[str]) -> str | None:
    """The key that a whole reply is, in brackets, with a stop or after "Answer:"."""
    known = tuple(keys)
    match = patterns(known).bare.fullmatch(reply)
    return known_key(match["key"], known) if match else None


def known_key(text: str, keys: tuple[str, ...]) -> str | None:
    """The key that a text in any case means; None where two differ in case alone."""
    if text in keys:
        return text
    alike = [key for key in keys if key.lower() == text.lower()]
    return alike[0] if len(alike) == 1 else None


def head_of(reply: str, keys: Iterable[str]) -> Named | None:
    """The key that a reply begins with, before further words; `label` says whether a stop or bracket is behind it."""
    known = tuple(keys)
    match = patterns(known).head.match(reply)
    key = known_key(match["key"], known) if match else None
    return (
        Named(key, match.start("key"), match.end("key"), False, match["label"] is not None) if match and key else None
    )


def lists_options(reply: str, keys: Iterable[str]) -> bool:
    """Whether a reply is a list: labels of several keys stand in it ("1. He enters. 2. He sits.")."""
    return _alone(patterns(tuple(keys)).item, reply) is False


def named_in(reply: str, keys: Iterable[str]) -> list[Named]:
    """Every option that a reply names by its key and does not deny, in order of place."""
    known = tuple(keys)
    compiled = patterns(known)
    denied = set(_denied_places(reply, compiled))
    found: dict[int, Named] = {}
    for one in _all(reply, compiled, known):
        if one.start not in found and one.start not in denied and not compiled.wrong.match(reply, one.end):
            found[one.start] = one
    return [found[start] for start in sorted(found)]


def _all(reply: str, compiled: KeyPatterns, keys: tuple[str, ...]) -> Iterator[Named]:
    # A key in a line of its own declares, unless several have such lines. A label alone means nothing ("vitamin C.").
    declaring = (compiled.line,) if _alone(compiled.line, reply) else ()
    naming = (compiled.line,) if _alone(compiled.item, reply) else (compiled.line, compiled.item)
    for declared, group in ((True, (*declaring, *compiled.declared)), (False, (*compiled.named, *naming))):
        for pattern in group:
            for match in pattern.finditer(reply):
                shape = match.lastgroup or "key"
                key = known_key(match[shape], keys)
                if key is not None:
                    yield Named(key, match.start(shape), match.end(shape), declared)


def _alone(pattern: re.Pattern[str], reply: str) -> bool | None:
    """Whether one key alone stands in such a way; None: none does."""
    keys = {match["key"] for match in pattern.finditer(reply)}
    return len(keys) == 1 if keys else None


def _denied_places(reply: str, compiled: KeyPatterns) -> Iterator[int]:
    """Where keys begin that are denied: those of "neither A nor B"."""
    for match in compiled.denied.finditer(reply):
        for one in compiled.one.finditer(reply, match.start(), match.end()):
            yield one.start("key")


def several(reply: str, one: Named, keys: Iterable[str]) -> bool:
    """Whether another option stands right beside: "A and C", "B or D"."""
    compiled = patterns(tuple(keys))
    match = compiled.another.match(reply, one.end)
    return match is not None and match["key"] != one.key and not compiled.wrong.match(reply, match.end("key"))
