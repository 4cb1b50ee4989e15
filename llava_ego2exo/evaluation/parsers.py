"""What reads replies, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .answers import parse_answer
from .viscop import parse_viscop

PARSERS: dict[str, Callable[[str, Mapping[str, str]], str | None]] = {"strict": parse_answer, "viscop": parse_viscop}
