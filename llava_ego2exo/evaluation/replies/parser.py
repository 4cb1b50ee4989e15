"""Which option a reply to a multiple-choice question declares; no model is asked, and nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from .patterns import KeyPatterns, patterns
from .text import Words, cleaned, same_text, texts_in, words_of
from .viscop import parse_viscop

# Which options a reply names by their keys, and which of them it denies: "the answer is C because ...", "not A".


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


_SAID = re.compile(
    r"\b(?:answer|actions?|activity|option|choice)\b[^.\n]{0,80}?(?:\b(?:is|are|was|be)\b|:)", re.IGNORECASE
)
_SENTENCE = re.compile(r"[.\n]")
# Who acts: "3. The person is stirring" says what "3. stirring" does.
_WHO = frozenset("person people man men woman women boy girl someone somebody he she they individu".split())


def parse_answer(reply: str, choices: Mapping[str, str]) -> str | None:
    """The key of the option that a reply declares, by its key or by its text.

    In this order: the whole reply is a key or an option's text; an option is declared to be the answer (the last
    declaration counts); one option alone is named by its key; one option alone is named by its text. See
    docs/replies.md.

    Args:
        reply: as the model gave it.
        choices: key -> option text.

    Returns:
        None where the reply names no option, several at once, or contradicts itself ("3. stirring" where option 4 is
        stirring).

    Raises:
        Ego2ExoError: snowballstemmer is not installed.
    """
    alone = reply.strip()
    if alone and alone in choices:
        return alone
    text = cleaned(reply)
    key = bare_key(text, choices)
    if key is not None or not text:
        return key
    return _Reading(text, choices).key()


class _Reading:
    """One reply beside its options."""

    def __init__(self, text: str, choices: Mapping[str, str]) -> None:
        self.text, self.choices = text, choices
        plain = {key: cleaned(option) for key, option in choices.items()}
        self.options = {key: words_of(option) for key, option in plain.items()}
        self.initials = frozenset(word[0] for option in self.options.values() for word in option.plain)
        self.head = self._head()

    def key(self) -> str | None:
        """See `parse_answer`."""
        whole = self._words(self.text)
        alike = [] if self.head else same_text(whole, self.options)
        if alike:
            return _only(alike)
        named = self._named()
        declared = [one for one in named if one.declared]
        if declared:
            return self._settled(declared[-1])
        keys = {one.key for one in named}
        said = self._said()
        if said:
            return _only(said) if len(keys) != 1 or keys <= said else None
        if named:
            return self._settled(named[-1]) if len(keys) == 1 else None
        return _only(span.key for span in texts_in(whole, self.options))

    def _words(self, text: str) -> Words:
        return words_of(text, self.initials)

    def _head(self) -> Named | None:
        """The key that the reply begins with; before an ordinary word only where an option's text follows: "3 walk"."""
        head = head_of(self.text, self.choices)
        if head is None or head.label:
            return head
        # "A" and "I" are words.
        return head if head.key not in "AaIi" and self._right_behind(head.end, who=False) else None

    def _named(self) -> list[Named]:
        """Options named by keys; with its own option's text behind it the key at the beginning declares."""
        named = named_in(self.text, self.choices)
        head = self.head
        if head is None or lists_options(self.text, self.choices):
            return named
        others = [one for one in named if one.start != head.start]
        own = head.key in self._right_behind(head.end, who=head.label)
        kept = [one for one in named if one.start == head.start]
        if head.label and not kept:  # denied: "A is wrong"
            return others
        return [replace(head, declared=own or any(one.declared for one in kept)), *others]

    def _settled(self, one: Named) -> str | None:
        """The key, unless another stands beside it, or the text of another option right behind it."""
        if several(self.text, one, self.choices):
            return None
        behind = self._right_behind(one.end, who=one.label)
        return one.key if not behind or one.key in behind else None

    def _right_behind(self, end: int, *, who: bool) -> set[str]:
        """Options whose text begins behind a place, and those in the same line; empty where none begins there.

        With `who` those count that begin behind the one who acts, too.
        """
        line = self._words(self.text[end : end + 1000].split("\n")[0])
        spans = texts_in(line, self.options)
        first = next((place for place, stem in enumerate(line.stems) if not who or stem not in _WHO), 0)
        return {span.key for span in spans} if any(span.first <= first for span in spans) else set()

    def _said(self) -> set[str]:
        """Options whose text stands in the sentence of the last "the answer is ..."."""
        places = [match.end() for match in _SAID.finditer(self.text)]
        if not places:
            return set()
        sentence = _SENTENCE.split(self.text[places[-1] :], maxsplit=1)[0]
        return {span.key for span in texts_in(self._words(sentence), self.options)}


def _only(keys: Iterable[str]) -> str | None:
    """The key where there is one alone."""
    found = set(keys)
    return found.pop() if len(found) == 1 else None


# What reads replies, by name.

PARSERS: dict[str, Callable[[str, Mapping[str, str]], str | None]] = {"strict": parse_answer, "viscop": parse_viscop}
