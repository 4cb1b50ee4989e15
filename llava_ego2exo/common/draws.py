"""Random draws that hang on a seed and names alone: not on order, machine, Python's `hash` or any draw before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import TypeVar

Value = TypeVar("Value")


def draw(choices: Sequence[Value], *names: int | str) -> Value:
    """One of the choices.

    Args:
        choices: at least one; give them in an order of their own, such as sorted.
        names: the seed and what is drawn for.
    """
    return choices[int(shuffle_key(*names), 16) % len(choices)]


def shuffle_key(*names: int | str) -> str:
    """What to sort by to shuffle: 64 hex digits from the seed and the names."""
    return sha256(json.dumps(names).encode()).hexdigest()
