"""Deterministic random draws: each depends on a seed and names alone, not on order, machine or earlier draws."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import TypeVar

Value = TypeVar("Value")


def draw(choices: Sequence[Value], *names: int | str) -> Value:
    """One of the choices, whose order must never change (sort them first)."""
    return choices[int(shuffle_key(*names), 16) % len(choices)]


def shuffle_key(*names: int | str) -> str:
    """A sort key that shuffles: 64 hex digits from the seed and the names."""
    return sha256(json.dumps(names).encode()).hexdigest()
