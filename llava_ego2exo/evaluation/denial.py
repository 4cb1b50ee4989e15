"""Whether a reply denies what it says: "not walking", "walking is wrong", "does not seem to be walking"."""

from __future__ import annotations

from .option_texts import COMMA, STOP, Words

NEGATIONS = frozenset("not never neither nor without cannot no none".split())
_PAIRS = frozenset({("rather", "than"), ("instead", "of")})
_TURNS = frozenset("but however instead though yet".split())
_VERBS = frozenset("is are was were would seems does do did can could has have".split())
_WRONG = frozenset("not never wrong incorrect false unlikely".split())
# How far before a text its denial may stand, in words, and how far where a comma is between ("not walking, drinking").
_REACH, _PAST_COMMA = 8, 3


def denied(reply: Words, first: int, end: int) -> bool:
    """Whether what stands from stem `first` up to `end` is denied, before it in its clause or right behind it."""
    return _before(reply, reply.places[first]) or _behind(reply, reply.places[end - 1] + 1)


def _before(reply: Words, place: int) -> bool:
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
        if word in _TURNS:
            return False
        if word in NEGATIONS and not (word == "no" and past_comma):  # "No, he is walking"
            return True
    return False


def _behind(reply: Words, place: int) -> bool:
    following = reply.plain[place : place + 2]
    if not following or reply.breaks[place]:
        return False
    if following[0] == "cannot" or following[0].endswith("n't"):
        return True
    return following[0] in _VERBS and following[1:] != () and following[1] in _WRONG
