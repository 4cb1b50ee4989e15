"""What the teacher is asked: several wordings of each kind of query, one of each drawn for every clip."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

from ...common.draws import draw
from ...common.json_io import read_json
from ...common.text import repeated, shorten_list
from ...errors import Ego2ExoError

Queries = dict[str, tuple[str, ...]]

# The paper's three kinds, in wordings of this package.
QUERIES: Queries = {
    "descriptive": (
        "Describe in detail what the person in the video does.",
        "What is the person doing? Name the hand, the tool and the object of each action.",
        "Give a detailed account of the activity: what is done, with what, and to what.",
        "Tell what happens in this video as if to someone who cannot see it.",
        "Which activity is shown, and how exactly does the person carry it out?",
    ),
    "temporal": (
        "List the actions in the order in which they happen.",
        "What does the person do first, what next, and what last?",
        "Describe the steps of the activity one after the other, from beginning to end.",
        "Which action comes before which? Go through the video from start to finish.",
        "How does the scene change over time, and which action causes each change?",
    ),
    "spatial": (
        "Which objects does the person use or touch, and where is each of them?",
        "Describe where the objects lie relative to the person's hands and to each other.",
        "Where in the scene does the activity take place, and what lies left, right, near and far?",
        "Name every object within reach of the hands and say in which hand or place it is.",
        "How are the objects arranged, and from where to where does the person move them?",
    ),
}
_EXAMPLE = '{"descriptive": ["What does the person do?", ...], "temporal": [...]}'


def read_queries(path: str | Path | None) -> Queries:
    """A user's queries, or :data:`QUERIES` where there is no path: kind -> wordings, kinds in the file's order.

    Raises:
        Ego2ExoError: the file cannot be read, or is no such object; names the first faults and counts the rest.
    """
    if path is None:
        return QUERIES
    content = read_json(path, f"a JSON file of queries: {_EXAMPLE}")
    faults = _faults(content)
    if faults:
        raise Ego2ExoError(f"{path}: {len(faults)} fault(s): {shorten_list(faults)}", _EXAMPLE, "fix the file")
    return {kind: tuple(wordings) for kind, wordings in content.items()}


def draw_queries(queries: Queries, segment: str, seed: int) -> dict[str, str]:
    """kind -> the wording drawn for a segment; the same for the same seed, whatever else is asked."""
    return {kind: draw(wordings, seed, segment, kind) for kind, wordings in queries.items()}


def _faults(content: Any) -> list[str]:
    if not isinstance(content, dict) or not content:
        return ["not an object of kinds with their wordings" if not isinstance(content, dict) else "no kind in it"]
    faults = []
    for kind, wordings in content.items():
        if not kind.strip() or kind != kind.strip() or not kind.isprintable():
            faults.append(f"kind {kind!r} is empty, has blanks at its ends or is not printable")
        if not isinstance(wordings, list) or not wordings:
            faults.append(f"kind {kind!r} has no list of wordings")
            continue
        faults += [f"kind {kind!r}: {fault}" for wording in wordings if (fault := _wording_fault(wording))]
        twice = repeated(w for w in wordings if isinstance(w, str))
        faults += [f"kind {kind!r}: {wording[:40]!r} occurs twice" for wording in twice]
    return faults


def _wording_fault(wording: Any) -> str:
    if not isinstance(wording, str) or not wording.strip():
        return f"{ascii(wording)[:40]} is no text"
    if wording != wording.strip() or any(unicodedata.category(c) in ("Cc", "Cs") and c != "\n" for c in wording):
        return f"{ascii(wording)[:40]} has blanks at its ends, control characters or invalid Unicode"
    held = [placeholder for placeholder in ("<image>", "<video>") if placeholder in wording]
    return f"{wording[:40]!r} holds {held[0]}, which is added to every query" if held else ""
