"""How many positions a model has, and whether answers leave any for clip and query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import Ego2ExoError


def positions(config: Mapping[str, Any]) -> int | None:
    """Positions of a model by its config.json; None where that does not say."""
    context = config.get("max_position_embeddings")
    factor = (config.get("rope_scaling") or {}).get("factor") or 1
    return int(context * factor) if context else None


def require_room(config: Mapping[str, Any], max_new_tokens: int) -> None:
    """Refuse answers so long that no position is left for what is asked.

    Args:
        config: the model's config.json.
        max_new_tokens: most tokens of an answer.

    Raises:
        Ego2ExoError: with the number of positions.
    """
    context = positions(config)
    if context is not None and max_new_tokens >= context:
        raise Ego2ExoError(
            f"--max-new-tokens {max_new_tokens}, and the model has {context} positions for clip, query and answer",
            "what leaves room for the clip and the query",
            "give a smaller --max-new-tokens",
        )
