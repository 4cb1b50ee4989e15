"""Rows of a training file in LLaVA's own terms: what other tools write differently is read as what it means."""

from __future__ import annotations

import contextlib
from typing import Any

from ...common.processes import log_line
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
    if has_other_placeholder(row):
        changes[KEPT_PLACE] = True
        turns = [
            {"from": "human", "value": turn["value"].replace(VIDEO_PLACEHOLDER, PLACEHOLDER)}
            if turn["from"] == "human" else turn for turn in turns
        ]  # fmt: skip
    return {**row, **changes, "conversations": turns} if changes else row


def has_other_placeholder(row: dict[str, Any]) -> bool:
    """Whether a row with a video has `<video>` where LLaVA reads `<image>`."""
    if "video" not in row or "image" in row:
        return False
    text = "".join([turn["value"] for turn in row["conversations"] if turn["from"] == "human"])
    return VIDEO_PLACEHOLDER in text and PLACEHOLDER not in text


def warn_of_text(rows: list[Any]) -> None:
    """Print one line where a run without ego tokens, which leaves rows to LLaVA, trains without their videos."""
    count = 0
    for row in rows:
        with contextlib.suppress(KeyError, TypeError):  # LLaVA fails on such a row itself
            count += has_other_placeholder(row)
    if count:
        log_line(
            f"WARNING: {count} of {len(rows)} rows have a video and {VIDEO_PLACEHOLDER}, which LLaVA takes for text: "
            f"they train without their video. Write {PLACEHOLDER}, or train ego tokens with --ego2exo True"
        )
