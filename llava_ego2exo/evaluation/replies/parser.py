"""Which option a reply to a multiple-choice question declares, by rules alone: strictly, or as VisCoP reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from .patterns import KeyMention, bare_key, is_option_list, key_mentions, leading_key, names_another
from .text import cleaned, equal_options, option_spans, stemmed

_STATED = re.compile(
    r"\b(?:answer|actions?|activity|option|choice)\b[^.\n]{0,80}?(?:\b(?:is|are|was|be)\b|:)", re.IGNORECASE
)
_SENTENCE = re.compile(r"[.\n]")
# Who acts: "3. The person is stirring" says what "3. stirring" does.
_ACTORS = frozenset("person people man men woman women boy girl someone somebody he she they individu".split())
# The published evaluation of VisCoP takes these words out before it looks for a capital.
_TAKEN_OUT = re.compile("answer|Answer")


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
    return _ReplyReader(text, choices).key()


class _ReplyReader:
    """One reply beside its options."""

    def __init__(self, text: str, choices: Mapping[str, str]) -> None:
        self.text, self.choices = text, choices
        self.options = {key: stemmed(cleaned(option)) for key, option in choices.items()}
        self.initials = frozenset(word[0] for option in self.options.values() for word in option.plain)
        self.head = self._head()

    def key(self) -> str | None:
        """See `parse_answer`."""
        whole = stemmed(self.text, self.initials)
        alike = [] if self.head else equal_options(whole, self.options)
        if alike:
            return _only(alike)
        named = self._mentions()
        declared = [one for one in named if one.declared]
        if declared:
            return self._unambiguous(declared[-1])
        keys = {one.key for one in named}
        said = self._stated()
        if said:
            return _only(said) if len(keys) != 1 or keys <= said else None
        if named:
            return self._unambiguous(named[-1]) if len(keys) == 1 else None
        return _only(span.key for span in option_spans(whole, self.options))

    def _head(self) -> KeyMention | None:
        """The key that the reply begins with; before an ordinary word only where an option's text follows: "3 walk"."""
        head = leading_key(self.text, self.choices)
        if head is None or head.label:
            return head
        # "A" and "I" are words.
        return head if head.key not in "AaIi" and self._options_after(head.end, skip_actor=False) else None

    def _mentions(self) -> list[KeyMention]:
        """Options named by keys; with its own option's text behind it the key at the beginning declares."""
        named = key_mentions(self.text, self.choices)
        head = self.head
        if head is None or is_option_list(self.text, self.choices):
            return named
        others = [one for one in named if one.start != head.start]
        own = head.key in self._options_after(head.end, skip_actor=head.label)
        kept = [one for one in named if one.start == head.start]
        if head.label and not kept:  # denied: "A is wrong"
            return others
        return [replace(head, declared=own or any(one.declared for one in kept)), *others]

    def _unambiguous(self, one: KeyMention) -> str | None:
        """The key, unless another stands beside it, or the text of another option right behind it."""
        if names_another(self.text, one, self.choices):
            return None
        behind = self._options_after(one.end, skip_actor=one.label)
        return one.key if not behind or one.key in behind else None

    def _options_after(self, end: int, *, skip_actor: bool) -> set[str]:
        """Options whose text begins behind a place, and those in the same line; empty where none begins there.

        With `skip_actor` those count that begin behind the one who acts, too.
        """
        line = stemmed(self.text[end : end + 1000].split("\n")[0], self.initials)
        spans = option_spans(line, self.options)
        first = next((place for place, stem in enumerate(line.stems) if not skip_actor or stem not in _ACTORS), 0)
        return {span.key for span in spans} if any(span.first <= first for span in spans) else set()

    def _stated(self) -> set[str]:
        """Options whose text stands in the sentence of the last "the answer is ..."."""
        places = [match.end() for match in _STATED.finditer(self.text)]
        if not places:
            return set()
        sentence = _SENTENCE.split(self.text[places[-1] :], maxsplit=1)[0]
        return {span.key for span in option_spans(stemmed(sentence, self.initials), self.options)}


def _only(keys: Iterable[str]) -> str | None:
    """The key where there is one alone."""
    found = set(keys)
    return found.pop() if len(found) == 1 else None


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
