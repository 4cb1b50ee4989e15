"""The teacher's answers on disk: one JSON object a line, appended while it works, put in order when it is done."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import Ego2ExoError
from .listing import listed

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
            found.update(((a.key, a.segment, a.kind), a) for a in _read(path, torn=path.name != FINISHED))
    return list(found.values())


def write_answers(folder: str | Path, answers: Iterable[Answer]) -> Path:
    """Write the finished file in the order given, and remove those of the unfinished run.

    At any moment the folder holds every answer: the new file takes the old one's place in one step.
    """
    folder = Path(folder)
    path, part = folder / FINISHED, folder / f".{FINISHED}.part"
    with part.open("w", encoding="utf-8") as file:
        file.writelines(_line(answer) for answer in answers)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    for unfinished in folder.glob(_PARTS):
        unfinished.unlink()
    return path


class AnswerStore:
    """Appends answers to one process's own file of a folder.

    Args:
        folder: made if it is not there.
        rank: number of the process.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        self.path = Path(folder, f"answers.part-{rank}.jsonl")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab+")
        self._drop_torn_line()

    def append(self, answers: Sequence[Answer]) -> None:
        """Add answers; when this returns they are on disk."""
        self._file.write("".join(map(_line, answers)).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; one without answers is removed."""
        empty = self._file.tell() == 0
        self._file.close()
        if empty:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> AnswerStore:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _drop_torn_line(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        self._file.truncate(content.rfind(b"\n") + 1)
        self._file.seek(0, os.SEEK_END)


def _line(answer: Answer) -> str:
    return json.dumps(asdict(answer), ensure_ascii=False) + "\n"


def _read(path: Path, torn: bool) -> Iterator[Answer]:
    lines = path.read_bytes().split(b"\n")
    last = lines.pop()  # empty where the file ends with a whole line
    faults = [] if torn or not last.strip() else [f"line {len(lines) + 1} is torn"]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            answer = _answer(json.loads(line))
        except (ValueError, TypeError, RecursionError) as error:
            faults.append(f"line {number}: {ascii(str(error))[1:-1][:100]}")
        else:
            yield answer
    if faults:
        raise Ego2ExoError(
            f"{path}: {len(faults)} damaged line(s): {listed(faults)}",
            "the records that `llava-ego2exo teach` writes",
            "delete these lines, and run the same `llava-ego2exo teach` again to have them answered",
        )


_TYPES: dict[str, tuple[type, ...]] = {
    "tokens": (int,), "flags": (list,), "settings": (dict,), "start_s": (int, float, type(None)),
    "end_s": (int, float, type(None)),
}  # fmt: skip


def _answer(record: Any) -> Answer:
    if not isinstance(record, dict):
        raise ValueError("no object")
    names = {field.name for field in fields(Answer)}
    if record.keys() != names:
        raise ValueError(f"lacks {sorted(names - record.keys())}, has unknown {sorted(record.keys() - names)}")
    odd = [name for name, value in record.items() if not isinstance(value, _TYPES.get(name, (str,)))]
    if odd:
        raise ValueError(f"{', '.join(odd)} of another type than expected")
    return Answer(**{**record, "flags": tuple(record["flags"])})
