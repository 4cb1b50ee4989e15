"""Replies as the published evaluation of VisCoP reads them, for comparing with numbers that were made with it."""

from __future__ import annotations

import re
from collections.abc import Mapping

# That code takes these words out before it looks for a capital.
_TAKEN_OUT = re.compile("answer|Answer")


def parse_viscop(reply: str, choices: Mapping[str, str]) -> str | None:
    """The first capital from A to the last option's letter, anywhere in a reply, also within a word.

    So "A person is cutting, so (C)" is read as A and "Based on this, D" as B. Where options have other keys, as
    numbers, A stands for the first of them; the published code has letters only. What holds no such capital, that code
    hands to a language model, and looks for options' texts in what comes back; here it is unparsed.

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
