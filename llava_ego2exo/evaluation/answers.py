"""Which option a reply to a multiple-choice question declares; no model is asked, and nothing is guessed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from .option_keys import Named, bare_key, named_in, several
from .option_texts import Words, texts_in, words_of

# Tokens that end a reply, and marks of Markdown.
_TOKENS = re.compile(r"</?s>|<\|[^|<>]{1,40}\|>|<pad>|<unk>|[*_`]+")
_BLANKS = re.compile(r"[^\S\n]+")
_SAID = re.compile(r"\b(?:answer|action|option|choice)\b[^.\n]{0,80}?(?:\bis\b|:)", re.IGNORECASE)


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
    text = _clean(reply)
    key = bare_key(text, choices)
    if key is not None or not text:
        return key
    options = {key: words_of(_clean(option)) for key, option in choices.items()}
    whole = words_of(text)
    alike = [key for key, option in options.items() if option.stems and option.stems == whole.stems]
    if alike:
        return alike[0] if len(alike) == 1 else None
    named = named_in(text, choices)
    declared = [one for one in named if one.declared]
    if declared:
        return _settled(text, declared[-1], choices, options)
    said = _said_text(text, options)
    if said:
        return _only(said)
    if named:
        return _settled(text, named[-1], choices, options) if len({one.key for one in named}) == 1 else None
    return _only({span.key for span in texts_in(whole, options)})


def _clean(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text)
    return _BLANKS.sub(" ", _TOKENS.sub(" ", plain)).strip()


def _settled(text: str, one: Named, choices: Mapping[str, str], options: Mapping[str, Words]) -> str | None:
    """The key, unless another stands beside it, or the text of another option right behind it."""
    if several(text, one, choices):
        return None
    behind = words_of(text[one.end :].split("\n")[0][:400])
    first = [span.key for span in texts_in(behind, options) if span.first == 0]
    return one.key if not first or one.key in first else None


def _said_text(text: str, options: Mapping[str, Words]) -> set[str]:
    """Options whose text stands in the sentence of the last "the answer is ..."."""
    places = [match.end() for match in _SAID.finditer(text)]
    if not places:
        return set()
    sentence = re.split(r"[.\n]", text[places[-1] :], maxsplit=1)[0]
    return {span.key for span in texts_in(words_of(sentence), options)}


def _only(keys: set[str]) -> str | None:
    return next(iter(keys)) if len(keys) == 1 else None
