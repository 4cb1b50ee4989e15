"""Which option a reply to a multiple-choice question declares, by rules alone: strictly, or as VisCoP reads it."""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from ..items import plain
from .cleaning import cleaned, has_condition, without_conditions
from .labels import labelled_text, plain_text
from .patterns import KeyMention, bare_key, is_option_list, key_mentions, leading_key, names_another
from .text import ACTORS, StemmedText, equal_options, option_spans, stemmed

_STATED = re.compile(
    r"\b(?:answer|actions?|activity|option|choice)\b[^.\n]{0,80}?(?:\b(?:is|are|was|be)\b|:)", re.IGNORECASE
)
_SENTENCE = re.compile(r"[.\n]")
_LETTERS = string.ascii_uppercase
# Where an option may be a number or a letter, such a reply may be either.
_COUNT = re.compile(r"\d|\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten)\b", re.IGNORECASE)
_LONE_LETTER = re.compile(r"(?<!\w)[B-HJ-Z](?!\w)|^\W*\w\W*$")
# The published evaluation of VisCoP takes these words out before it looks for a capital.
_TAKEN_OUT = re.compile("answer|Answer")


@dataclass(frozen=True)
class Reading:
    """What a reply says."""

    key: str | None = None  # of the option
    mislabelled: bool = False  # it is the option's text that says so, behind the key of another


def parse_answer(reply: str, choices: Mapping[str, str]) -> str | None:
    """The key of the option that a reply declares, by its key or by its text.

    In this order: the whole reply is a key or an option's text; an option is declared to be the answer (the last
    declaration counts); one option alone is named by its key; one option alone is named by its text. See
    docs/replies.md.

    Args:
        reply: as the model gave it.
        choices: key -> option text.

    Returns:
        None where the reply names no option, several at once, or contradicts itself ("3. The person is stirring" where
        option 4 is stirring).

    Raises:
        Ego2ExoError: snowballstemmer is not installed.
    """
    return read_answer(reply, choices).key


def read_answer(reply: str, choices: Mapping[str, str]) -> Reading:
    """As `parse_answer`, and whether the option's text stands behind another option's key."""
    alone = reply.strip()
    if alone and alone in choices:
        return Reading(alone)
    text = cleaned(reply)
    if not text:
        return Reading()
    whole = text.rstrip(".!? ").lower()
    same = [key for key, option in choices.items() if plain_text(option) == whole]
    key = bare_key(text, choices) or _only(same, choices)
    if key is not None:
        return Reading(key)
    supposed = any(map(has_condition, choices.values()))  # "He would fall if ..." may be an option
    reader = _ReplyReader(text if supposed else without_conditions(text), choices)
    key = reader.key()
    if key is None and reader.silent:
        other = _other_keys(choices)
        key = bare_key(text, other) or _ReplyReader(reader.text, dict.fromkeys(other, "")).declared_key()
        return Reading(other[key] if key else None)
    return Reading(key, key in reader.labelled.mislabelled)


def _other_keys(choices: Mapping[str, str]) -> dict[str, str]:
    """1, 2, ... -> the keys where they are A, B, ..., and the other way round; empty where either could be meant."""
    keys, texts = list(choices), " \n".join(choices.values())
    numbers = [str(place) for place in range(1, len(keys) + 1)]
    if [key.upper() for key in keys] == list(_LETTERS[: len(keys)]) and not _COUNT.search(texts):
        return dict(zip(numbers, keys, strict=True))
    if keys == numbers and len(keys) <= len(_LETTERS) and not any(map(_LONE_LETTER.search, choices.values())):
        return dict(zip(_LETTERS, keys, strict=False))
    return {}


@functools.lru_cache(maxsize=4096)
def _stemmed_option(text: str) -> StemmedText:
    return stemmed(cleaned(text))


class _ReplyReader:
    """One reply beside its options."""

    def __init__(self, text: str, choices: Mapping[str, str]) -> None:
        self.labelled, self.choices = labelled_text(text, choices), choices
        self.text = self.labelled.text
        self.options = {key: _stemmed_option(option) for key, option in choices.items()}
        self.initials = frozenset(word[0] for option in self.options.values() for word in option.plain)
        self.whole = stemmed(self.text, self.initials)
        self.head = self._head()
        self.named = self._mentions()

    @property
    def silent(self) -> bool:
        """Whether neither a key nor a text of an option stands there, unless denied."""
        return self.head is None and not self.named and not option_spans(self.whole, self.options)

    def key(self) -> str | None:
        """See `parse_answer`."""
        alike = [] if self.head else equal_options(self.whole, self.options)
        if alike:
            return _only(alike, self.choices)
        if any(one.declared for one in self.named):
            return self.declared_key()
        keys = {one.key for one in self.named}
        said = self._stated()
        if said:
            return _only(said, self.choices) if len(keys) != 1 or keys <= said else None
        if keys:
            return self._unambiguous(self.named[-1]) if len(keys) == 1 else None
        return _only((span.key for span in option_spans(self.whole, self.options)), self.choices)

    def declared_key(self) -> str | None:
        """The key that is said to be the answer: the last one, or in a loop the first."""
        declared = [one for one in self.named if one.declared]
        return self._unambiguous(declared[0 if self._is_loop(declared) else -1]) if declared else None

    def _is_loop(self, declared: list[KeyMention]) -> bool:
        """Whether one sentence repeats with ever other options up to the length limit: the first was meant."""
        ends = [0, *(one.end for one in declared)]
        starts = [*(one.start for one in declared), len(self.text)]
        before, *between, behind = (_words(self.text[end:start]) for end, start in zip(ends, starts, strict=True))
        if len(set(between)) != 1 or any(one.key == other.key for one, other in pairwise(declared)):
            return False
        cut_off = (behind and between[0].startswith(behind)) or "..." in self.text[ends[-1] :]
        return len(declared) > 2 or bool(cut_off and before.endswith(between[0]))

    def _head(self) -> KeyMention | None:
        """The key that the reply begins with; before an ordinary word only where an option's text follows: "3 walk"."""
        head = leading_key(self.text, self.choices)
        if head is None or head.label:
            return head
        # "A" and "I" are words.
        return head if head.key not in "AaIi" and self._options_after(head.end, skip_actor=False) else None

    def _mentions(self) -> list[KeyMention]:
        """Options named by keys; with its own option's text behind it the key at the beginning declares."""
        named = key_mentions(self.text, self.choices, self.labelled.own)
        head = self.head
        if head is None or is_option_list(self.text, self.choices):
            return named
        others = [one for one in named if one.start != head.start]
        own = head.start in self.labelled.own or head.key in self._options_after(head.end, skip_actor=head.label)
        kept = [one for one in named if one.start == head.start]
        if head.label and not kept:  # denied: "A is wrong"
            return others
        return [replace(head, declared=own or any(one.declared for one in kept)), *others]

    def _unambiguous(self, one: KeyMention) -> str | None:
        """The key, unless another stands beside it, or the text of another option right behind it."""
        if names_another(self.text, one, self.choices):
            return None
        behind = set() if one.start in self.labelled.own else self._options_after(one.end, skip_actor=one.label)
        return one.key if not behind or one.key in behind else None

    def _options_after(self, end: int, *, skip_actor: bool) -> set[str]:
        """Options whose text begins behind a place, and those in the same line; empty where none begins there.

        With `skip_actor` those count that begin behind the one who acts, too.
        """
        line = stemmed(self.text[end : end + 1000].split("\n")[0], self.initials)
        spans = option_spans(line, self.options)
        first = next((place for place, stem in enumerate(line.stems) if not skip_actor or stem not in ACTORS), 0)
        return {span.key for span in spans} if any(span.first <= first for span in spans) else set()

    def _stated(self) -> set[str]:
        """Options whose text stands in the sentence of the last "the answer is ..."."""
        places = [match.end() for match in _STATED.finditer(self.text)]
        if not places:
            return set()
        sentence = _SENTENCE.split(self.text[places[-1] :], maxsplit=1)[0]
        return {span.key for span in option_spans(stemmed(sentence, self.initials), self.options)}


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _only(keys: Iterable[str], choices: Mapping[str, str]) -> str | None:
    """The key where there is one alone, or options of one text alone: then the first of these."""
    found = set(keys)
    alone = len({plain(choices[key]) for key in found}) == 1
    return next(key for key in choices if key in found) if alone else None


def parse_viscop(reply: str, choices: Mapping[str, str]) -> str | None:
    """As VisCoP's published evaluation, to compare with its numbers: the first capital up to the last option's letter.

    It may stand within a word, so "A person is cutting, so (C)" is read as A and "Based on this, D" as B. Where options
    have other keys, as numbers, A stands for the first of them; the published code has letters only. A reply without
    such a capital goes to a language model in that code; here it is unparsed.

    Args:
        reply: as the model gave it.
        choices: key -> option text.

    Returns:
        None also where the letter is no option's (options A and C, "B"), which stops the published code.
    """
    keys = list(choices)
    lettered = bool(keys) and all(re.fullmatch("[A-Z]", key) for key in keys)
    letters = keys if lettered else [chr(ord("A") + place) for place in range(min(len(keys), 26))]
    if not letters:
        return None
    found = re.search(f"[A-{max(letters)}]", _TAKEN_OUT.sub("", reply))
    return dict(zip(letters, keys, strict=False)).get(found[0]) if found else None


PARSERS: dict[str, Callable[[str, Mapping[str, str]], str | None]] = {"strict": parse_answer, "viscop": parse_viscop}
