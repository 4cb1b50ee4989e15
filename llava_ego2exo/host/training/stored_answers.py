"""Teacher answers on disk, with the top-k logits of their tokens, and how they are found in the student's rows.

`teach --top-k` writes one file an answer: `top_k/<first 2 of key>/<key>.npz`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import Ego2ExoError

if TYPE_CHECKING:  # files of answers are read without torch too
    from torch import Tensor

    from ..model.answer_tokens import Answers

ARRAYS = ("tokens", "ids", "logits")


def file_of(folder: str | Path, key: str) -> Path:
    """Where the logits of an answer lie."""
    return Path(folder, "top_k", key[:2], f"{key}.npz")


def is_key(key: Any) -> bool:
    """Whether this is an answer's key, which becomes part of a path."""
    return isinstance(key, str) and re.fullmatch(r"[0-9a-f]{32}", key) is not None


def read_logits(folder: str | Path, key: str) -> dict[str, Any]:
    """The arrays of an answer: `tokens` (T,), `ids` (T, k) and `logits` (T, k), numpy.

    Raises:
        Ego2ExoError: the file is missing or holds something else.
    """
    import numpy as np

    file = file_of(folder, key)
    remedy = "run the same `llava-ego2exo teach` again with --top-k"
    if not file.is_file():
        raise Ego2ExoError(f"no top-k logits at {file}", "answers made with `llava-ego2exo teach --top-k K`", remedy)
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ARRAYS}
    except Exception as error:  # on a damaged file zip, zlib and numpy raise many kinds, MemoryError too
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Ego2ExoError(f"{file} is damaged: {reason}", "", f"delete it, and {remedy}") from error
    tokens, ids, logits = (arrays[name] for name in ARRAYS)
    if tokens.ndim != 1 or ids.ndim != 2 or ids.shape != logits.shape or ids.shape[0] != tokens.shape[0]:
        shapes = ", ".join(f"{name} {value.shape}" for name, value in arrays.items())
        raise Ego2ExoError(f"top-k logits {file} have shapes {shapes}", "tokens (T,), ids (T, k), logits (T, k)")
    return arrays


Turn = dict[str, Any]


def align_turns(
    student: Answers, rows: list[int], turns: list[list[Turn]]
) -> tuple[Tensor, list[tuple[Turn, slice]], int]:
    """Find stored answers inside the supervised tokens.

    LLaVA supervises an answer together with tokens of the conversation template around it. A stored answer is searched
    as one contiguous run of its row's supervised tokens, after the turn before it; at the end of a row that was cut,
    its beginning is enough. Of an answer that differs in leading blanks alone, all but the first tokens are found. One
    that is tokenized differently than the teacher wrote it is not found, and has no KL.

    `turns` are those of each of the `rows`, in order, with `tokens` (T,) and perhaps what :func:`beginnings` gives.

    Returns:
        Indices of the found ones in the student's tokens (M,), the turns with the slice of each, in the same order, and
        how many tokens of stored answers were not found.
    """
    import torch

    found, parts, unmatched = [student.tokens[:0]], [], 0
    for row, stored in zip(rows, turns, strict=True):
        mine = student.row(row)
        text = TurnRow(student.tokens[mine].tolist(), student.places[mine].tolist(), student.cut[row])
        cursor = 0
        for turn in stored:
            start, part = find_turn(text, turn, cursor)
            count = part.stop - part.start
            unmatched += len(turn["tokens"]) - count
            if count:
                cursor = start + count
                found.append(mine[start:cursor])
                parts.append((turn, part))
    return torch.cat(found), parts, unmatched


def beginnings(tokens: list[int], tokenizer: Any) -> list[tuple[int, list[int]]]:
    """How a stored answer may begin without the blanks before its first letter, as in a training file.

    Returns:
        How many tokens are replaced, and the tokens in their place; those that keep most first, none if the answer
        begins without a blank.
    """
    blank = 0
    while blank < len(tokens) and not tokenizer.decode([tokens[blank]]).strip():
        blank += 1
    found: list[tuple[int, list[int]]] = [(skip, []) for skip in range(1, blank + 1)]
    text = tokenizer.decode([tokens[blank]]) if blank < len(tokens) else ""
    if text != text.lstrip():
        found.append((blank + 1, tokenizer(text.lstrip(), add_special_tokens=False).input_ids))
    return found


def find_turn(row: TurnRow, turn: Turn, cursor: int) -> tuple[int, slice]:
    """Where a stored answer starts from `cursor` on, and which of its tokens; an empty slice if it is not found."""
    wanted = turn["tokens"].tolist()
    for skip, head in [(0, []), *turn.get("beginnings", [])]:
        # Without its first token, an end token alone would be found after any turn.
        if skip and len(head) + len(wanted) - skip < 2:
            continue
        start, count = row.find([*head, *wanted[skip:]], cursor)
        if count > len(head):
            return start + len(head), slice(skip, skip + count - len(head))
    return cursor, slice(0, 0)


@dataclass(frozen=True)
class TurnRow:
    """One row's supervised tokens."""

    tokens: list[int]
    places: list[int]  # positions in the row
    cut: bool  # whether the row's end may be missing

    def find(self, wanted: list[int], cursor: int) -> tuple[int, int]:
        """Where `wanted` starts from `cursor` on, and how much of it is there; (cursor, 0) if it is not found."""
        for start in range(cursor, len(self.tokens) - len(wanted) + 1):
            if self._matches(wanted, start):
                return start, len(wanted)
        for start in range(max(cursor, len(self.tokens) - len(wanted) + 1), len(self.tokens) if self.cut else 0):
            count = len(self.tokens) - start
            if self._matches(wanted[:count], start):
                return start, count
        return cursor, 0

    def _matches(self, wanted: list[int], start: int) -> bool:
        end = start + len(wanted)
        unbroken = bool(wanted) and self.places[end - 1] - self.places[start] == len(wanted) - 1
        return unbroken and self.tokens[start:end] == wanted
