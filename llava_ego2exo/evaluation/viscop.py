"""Replies as the published code of VisCoP reads them, for comparing with numbers that were made with it."""

from __future__ import annotations

import re
from collections.abc import Mapping

_FIRST = re.compile(r"[A-D]")


def parse_viscop(reply: str, choices: Mapping[str, str]) -> str | None:
    """The first capital A, B, C or D anywhere in a reply.

    So "A person is cutting, so (C)" is read as A. Where options have other keys, as numbers, A means the first of them.
    What is not read, the published code hands to a language model; here it is unparsed.

    Args:
        reply: as the model gave it.
        choices: key -> option text.
    """
    found = _FIRST.search(reply)
    if found is None:
        return None
    letter, keys = found[0], list(choices)
    if any(key.isalpha() for key in keys):
        return letter if letter in choices else None
    place = ord(letter) - ord("A")
    return keys[place] if place < len(keys) else None
