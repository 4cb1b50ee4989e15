"""Which option a reply to a multiple-choice question declares; no model is asked, and nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from .option_keys import Named, bare_key, head_of, lists_options, named_in, several
from .option_texts import Words, words_of
from .reply_text import cleaned
from .text_spans import same_text, texts_in

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
