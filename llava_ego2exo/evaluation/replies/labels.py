"""Keys with an option's exact text behind, "C. sit down": the text decides, and what it holds is not read any more."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .cleaning import cleaned
from .patterns import denied_places, is_option_list, patterns

# Behind an option's text: not a further part of its last word or number; and the end of what is named.
_WHOLE = re.compile(r"(?![^\W_]|[.,:/]\d| ?%)")
_AT_END = re.compile(r"[^\w\n(]{0,8}(?:$|\n)|[\"')\]]{0,3}[.!?;]\s|,? (?:because|since|as)\b| (?:is|are|seems)\b")
# With an ordinary word behind them these are words and counts; as labels they have a bracket or stop.
_WORDS = re.compile(r"[AaIi]|[a-z]|\d+")
# Before a key that has only a stop behind: what makes it a label and not a sentence's end ("vitamin C. Walk").
_LEADING = re.compile(
    r"(?:^|[\n:=>]|\b(?:is|are|was|be|it's|so|thus|therefore|with|say|choose|pick|select|answer|action|option|choice|number"
    r"|letter|caption|sentence|statement))[^\w\n]{0,3}$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class LabelledText:
    """A reply in which "(C)" stands for "C. sit down"."""

    text: str
    own: frozenset[int]  # where these keys begin
    mislabelled: frozenset[str]  # options whose text stood behind another's key; these keys are those of the texts


@dataclass(frozen=True)
class _Label:
    start: int
    end: int
    key: str  # whose text it is
    own: bool  # whether the key is its own


@functools.lru_cache(maxsize=4096)
def plain_text(text: str) -> str:
    """What has to be equal where an option's text is to be exact: cleaned, in lower case, without a stop at the end."""
    return cleaned(text).rstrip(".!? ").lower()


def labelled_text(reply: str, choices: Mapping[str, str]) -> LabelledText:
    """Replace each key that has its own option's exact text behind, and where this is no list, another's."""
    found = list(_labels(reply, {key: plain_text(option) for key, option in choices.items()}))
    own = [label for label in found if label.own]
    text = _replaced(reply, own)
    if len(own) < len(found) and not is_option_list(text.text, choices):
        return _replaced(reply, found)
    return text


def _replaced(reply: str, labels: list[_Label]) -> LabelledText:
    pieces, place, length, starts = [], 0, 0, set()
    for label in labels:
        piece = reply[place : label.start] + f"({label.key})"
        pieces.append(piece)
        place, length = label.end, length + len(piece)
        starts.add(length - len(label.key) - 1)
    other = frozenset(label.key for label in labels if not label.own)
    return LabelledText("".join([*pieces, reply[place:]]), frozenset(starts), other)


def _labels(reply: str, options: Mapping[str, str]) -> Iterator[_Label]:
    lower = reply.lower()
    if len(lower) != len(reply):  # as of "İ": places must be the same
        lower = reply
    denied, place = denied_places(reply, options), 0
    for match in patterns(tuple(options)).before.finditer(reply):
        key, sign = match["key"], match["label"].strip()
        if match.start() < place or match.start("key") in denied or (not sign and _WORDS.fullmatch(key)):
            continue
        text = _text_behind(lower, range(match.end("key"), match.end() + 1), options, key)
        if text is None:
            continue
        whose, end = text
        # "the answer is 4.\nread book" may be two statements.
        alone = "\n" not in match[0] or not match.start()
        label = sign.strip(",;=") and (
            sign != "." or _LEADING.search(reply[max(match.start() - 20, 0) : match.start()])
        )
        if whose == key or (label and alone and _AT_END.match(reply, end)):
            place = end
            yield _Label(match.start(), end, whose, whose == key)


def _text_behind(lower: str, places: range, options: Mapping[str, str], own: str) -> tuple[str, int] | None:
    """The option whose text begins first, the longest, and where it ends."""
    for place in places:
        found = {
            key: place + len(text)
            for key, text in options.items()
            if text and lower.startswith(text, place) and _WHOLE.match(lower, place + len(text))
        }
        longest = [key for key, end in found.items() if end == max(found.values())]
        if longest:
            key = own if own in longest else longest[0]
            return key, found[key]
    return None
