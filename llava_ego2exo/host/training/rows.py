"""Rows of a training file in LLaVA's own terms: what other tools write differently is read as what it means."""

from __future__ import annotations

from typing import Any

from ..fixes.data import KEPT_PLACE, PLACEHOLDER, SYSTEM

VIDEO_PLACEHOLDER = "<video>"


def host_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row as LLaVA can train it; the row itself where there is nothing to change.

    - `<video>` in the query of a row with a video and without `<image>` is the placeholder, and stays in its place.
      Anywhere else it is text, such as a question about HTML.
    - A system turn at the beginning is taken out of the conversation and becomes the row's system prompt.

    Args:
        row: with turns that are known to be well formed.
    """
    turns, changes = row["conversations"], {}
    if turns[0]["from"] == "system":
        changes[SYSTEM] = turns[0]["value"]
        turns = turns[1:]
    if "video" in row and "image" not in row:
        text = "".join([turn["value"] for turn in turns if turn["from"] == "human"])
        if VIDEO_PLACEHOLDER in text and PLACEHOLDER not in text:
            changes[KEPT_PLACE] = True
            turns = [
                {"from": "human", "value": turn["value"].replace(VIDEO_PLACEHOLDER, PLACEHOLDER)}
                if turn["from"] == "human" else turn for turn in turns
            ]  # fmt: skip
    return {**row, **changes, "conversations": turns} if changes else row
