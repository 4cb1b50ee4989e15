"""What a user of `llava-ego2exo teach` asks for, the queries for each clip, and the flags of an answer."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...common.draws import draw
from ...common.json_io import read_json
from ...common.text import repeated, shorten_list
from ...errors import Ego2ExoError
from ...host.inference.settings import InferenceOptions


@dataclass(frozen=True)
class TeachJob(InferenceOptions):
    """A command line of `llava-ego2exo teach`; the fields are its flags."""

    pairs: str
    model: str
    out: str
    model_base: str | None = None
    queries: str | None = None
    seed: int = 0
    split: str = "train"
    max_new_tokens: int = 256
    top_k: int = 0
    estimate: int = 0
    batch_size: int = field(default=4, kw_only=True)
    workers: int = field(default=4, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_at_least(top_k=0, estimate=0)


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
        faults += [f"kind {kind!r}: {fault}" for wording in wordings if (fault := wording_fault(wording))]
        twice = repeated(w for w in wordings if isinstance(w, str))
        faults += [f"kind {kind!r}: {wording[:40]!r} occurs twice" for wording in twice]
    return faults


def wording_fault(wording: Any) -> str:
    """Why a wording cannot be asked; "" where it can."""
    if not isinstance(wording, str) or not wording.strip():
        return f"{ascii(wording)[:40]} is no text"
    if wording != wording.strip() or any(unicodedata.category(c) in ("Cc", "Cs") and c != "\n" for c in wording):
        return f"{ascii(wording)[:40]} has blanks at its ends, control characters or invalid Unicode"
    held = [placeholder for placeholder in ("<image>", "<video>") if placeholder in wording]
    return f"{wording[:40]!r} holds {held[0]}, which is added to every query" if held else ""


CUT = "cut"  # the flag of an answer that the length limit ended
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+(?:['’-][^\W_]+)*")
# A unit of up to eight letters ten times in a row, such as "hahaha..." or "......".
_LETTERS = re.compile(r"(\S.{0,7}?)\1{9,}", re.DOTALL)
_LONGEST_PHRASE = 40
_TIMES, _SPAN = 3, 12
_SENTENCE_WORDS = 4
_LONG, _RUN, _NEW_SHARE = 60, 4, 0.5


def flags(answer: str, ended: bool) -> tuple[str, ...]:
    """What is wrong with an answer by its form alone; whether it is true is not judged."""
    found = {"empty": not any(map(str.isalnum, answer)), "repeats": repeats(answer), CUT: not ended}
    return tuple(flag for flag, is_so in found.items() if is_so)


def repeats(answer: str) -> bool:
    """Whether the answer runs in a circle.

    It does when a phrase stands three times or more in a row over twelve words or more, a sentence of four words or
    more stands three times anywhere, some letters stand ten times in a row, or half of a long answer's runs of four
    words have been said before.
    """
    words = _words(answer)
    return bool(_LETTERS.search(answer)) or _phrase_loop(words) or _sentences(answer) or _says_little_new(words)


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _phrase_loop(words: list[str]) -> bool:
    """Some phrase `_TIMES` times or more in a row, over `_SPAN` words or more."""
    for length in range(1, min(_LONGEST_PHRASE, len(words) // _TIMES) + 1):
        # How many words in a row equal the one `length` places before: a phrase said n times gives (n - 1) * length.
        same, needed = 0, max((_TIMES - 1) * length, _SPAN - length)
        for place in range(length, len(words)):
            same = same + 1 if words[place] == words[place - length] else 0
            if same >= needed:
                return True
    return False


def _sentences(answer: str) -> bool:
    sentences = [tuple(_words(sentence)) for sentence in re.split(r"[.!?\n。！？]+", answer)]
    return any(count >= _TIMES and len(words) >= _SENTENCE_WORDS for words, count in Counter(sentences).items())


def _says_little_new(words: list[str]) -> bool:
    runs = [tuple(words[start : start + _RUN]) for start in range(len(words) - _RUN + 1)]
    return len(words) >= _LONG and len(set(runs)) < _NEW_SHARE * len(runs)
