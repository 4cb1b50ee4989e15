"""The teacher's answers on disk: one JSON object a line, appended while it works, put in order when it is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...common.files import write_atomic
from ...common.jsonl import AppendFile, json_line, read_lines, record_of
from ...errors import Ego2ExoError

FINISHED = "answers.jsonl"
_PARTS = "answers.part-*.jsonl"


@dataclass(frozen=True)
class Answer:
    """What a teacher said about one ego clip.

    Args:
        key: identity by content, see :func:`answer_key`.
        segment: the pair's.
        split: the pair's.
        kind: of the query.
        query: as it was put, without placeholder and template.
        answer: as it was given, blanks at its ends removed.
        flags: what is wrong with it: "empty", "repeats", "cut"; none for a good answer.
        tokens: number of tokens generated, its end token included.
        video: sha256 of the ego file.
        start_s: where the clip begins in that file, in seconds; None: at its start.
        end_s: where it ends, in seconds; None: at the file's end.
        teacher: fingerprint of the model.
        settings: how it was asked, see `teaching.Settings`.
    """

    key: str
    segment: str
    split: str
    kind: str
    query: str
    answer: str
    flags: tuple[str, ...]
    tokens: int
    video: str
    start_s: float | None
    end_s: float | None
    teacher: str
    settings: dict[str, Any]


def answer_key(
    video: str, start_s: float | None, end_s: float | None, query: str, teacher: str, settings: dict[str, Any]
) -> str:
    """32 hex digits that are the same for the same content, wherever the files lie.

    Args:
        video: sha256 of the ego file.
        start_s: where the clip begins, in seconds.
        end_s: where it ends, in seconds.
        query: as it is put.
        teacher: fingerprint of the model.
        settings: how it is asked.
    """
    # As floats: 3 and 3.0 are one moment.
    span = [None if second is None else float(second) for second in (start_s, end_s)]
    content = json.dumps([video, *span, query, teacher, settings], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def read_answers(folder: str | Path) -> list[Answer]:
    """All answers of a folder: those of a finished run in its order, then those of an unfinished one.

    Where a key stands several times for one segment and kind, the last record counts.

    Raises:
        Ego2ExoError: the folder is missing, or a line is damaged. The last line of an unfinished file may be torn.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise Ego2ExoError(f"{folder} is no folder", "the folder that `llava-ego2exo teach` wrote", "check the path")
    found: dict[tuple[str, str, str], Answer] = {}
    for path in (folder / FINISHED, *sorted(folder.glob(_PARTS))):
        if path.is_file():
            read = read_lines(path, _answer, torn=path.name != FINISHED, origin="llava-ego2exo teach")
            found.update(((a.key, a.segment, a.kind), a) for a in read)
    return list(found.values())


def write_answers(folder: str | Path, answers: Iterable[Answer]) -> Path:
    """Write the finished file in the order given, and remove those of the unfinished run.

    At any moment the folder holds every answer: the new file takes the old one's place in one step.
    """
    folder = Path(folder)
    path = write_atomic(folder / FINISHED, "".join(json_line(asdict(answer)) for answer in answers))
    for unfinished in folder.glob(_PARTS):
        unfinished.unlink()
    return path


class AnswerStore(AppendFile):
    """Appends answers to one process's own file of a folder.

    Args:
        folder: made if it is not there.
        rank: number of the process.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        super().__init__(Path(folder, f"answers.part-{rank}.jsonl"))

    def append(self, answers: Iterable[Answer]) -> None:
        """Add answers; when this returns they are on disk."""
        super().append(map(asdict, answers))


_TYPES: dict[str, tuple[type, ...]] = {
    "tokens": (int,), "flags": (list,), "settings": (dict,), "start_s": (int, float, type(None)),
    "end_s": (int, float, type(None)),
}  # fmt: skip


def _answer(record: Any) -> Answer:
    return record_of(Answer, record, _TYPES)
