"""An answers folder: the answers of one teacher with one way of asking, and the logits of their tokens."""

from __future__ import annotations

import dataclasses
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.files import write_atomic
from ...common.json_io import read_json
from ...common.record_store import RecordStore, content_key, differences
from ...common.text import shorten_list
from ...errors import Ego2ExoError
from ..pairs.file import Pair

MANIFEST = "manifest.json"
_TYPES: dict[str, tuple[type, ...]] = {
    "tokens": (int,), "flags": (list,), "settings": (dict,), "start_s": (int, float, type(None)),
    "end_s": (int, float, type(None)),
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """A teacher's answer about one ego clip.

    Args:
        key: identity by content, see :func:`answer_key`.
        segment: the pair's.
        split: the pair's.
        kind: of the query.
        query: as it was asked, without placeholder and template.
        answer: as it was given, blanks at its ends removed.
        flags: what is wrong with it: "empty", "repeats", "cut"; none for a good answer.
        tokens: number of tokens generated, its end token included; 0 where that is not known.
        video: sha256 of the ego file.
        start_s: where the clip begins in that file, in seconds; None: at its start.
        end_s: where it ends, in seconds; None: at the file's end.
        teacher: fingerprint of the model.
        settings: how it was asked, see `InferenceSettings`.
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
    """A key that is the same for the same content, wherever the files lie."""
    # As floats: 3 and 3.0 are one moment.
    span = [None if second is None else float(second) for second in (start_s, end_s)]
    return content_key([video, *span, query, teacher, settings])


def answer_store(folder: str | Path) -> RecordStore[Answer]:
    """The records of an answers folder."""
    return RecordStore(Path(folder), "answers", Answer, _TYPES, "llava-ego2exo teach")


def read_answers(folder: str | Path) -> list[Answer]:
    """All answers of a folder: those of a finished run in its order, then those of an unfinished one.

    Of several records with one key for one segment and kind the last counts.

    Raises:
        Ego2ExoError: the folder is missing, or a line is damaged. The last line of an unfinished file may be torn.
    """
    if not Path(folder).is_dir():
        raise Ego2ExoError(f"{folder} is no folder", "the folder that `llava-ego2exo teach` wrote", "check the path")
    return list({(a.key, a.segment, a.kind): a for a in answer_store(folder).read()}.values())


def open_folder(folder: Path, manifest: dict[str, Any]) -> list[Answer]:
    """Check that the folder is this teacher's, write its manifest, and return the answers that are there.

    Raises:
        Ego2ExoError: it holds answers of another teacher or to other questions; names what differs.
    """
    found = read_answers(folder)
    if found:  # an empty run imposes no settings
        _require_same(folder, found, manifest)
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return found


@dataclass(frozen=True)
class AnswerCounts:
    """What a folder holds after a run.

    `others` are answers of other splits and of segments that the pairs lack; `dropped` those of changed videos and
    under former names.
    """

    answers: int
    missing: int
    flags: dict[str, int]
    others: int
    dropped: int


def finish_folder(
    folder: Path, places: Mapping[tuple[str, str], str], chosen: Sequence[Pair], pairs: Sequence[Pair]
) -> AnswerCounts:
    """Put all answers in one file, in order of pairs and kinds; last those of segments that the pairs lack."""
    found = read_answers(folder)
    by_key = {answer.key: answer for answer in found}
    splits = {pair.segment: pair.split for pair in pairs}
    own = [
        dataclasses.replace(by_key[key], segment=segment, kind=kind, split=splits[segment])
        for (segment, kind), key in places.items()
        if key in by_key
    ]
    asked = {pair.segment for pair in chosen}
    # A segment whose answer was taken over under a new name has no other use for the old record.
    used = {answer.key for answer in own}
    others = [a for a in found if a.segment not in asked and not (a.key in used and a.segment not in splits)]
    segments = {pair.segment: number for number, pair in enumerate(pairs)}
    kinds = {kind: number for number, kind in enumerate(dict.fromkeys(kind for _, kind in places))}
    ordered = sorted(
        [*own, *others], key=lambda a: (segments.get(a.segment, len(segments)), kinds.get(a.kind, len(kinds)))
    )
    answer_store(folder).finish(ordered)
    flags = Counter(flag for answer in own for flag in answer.flags)
    kept = {(a.key, a.segment, a.kind) for a in ordered}
    dropped = sum((a.key, a.segment, a.kind) not in kept for a in found)
    return AnswerCounts(len(own), len(places) - len(own), dict(flags), len(others), dropped)


def write_failures(folder: Path, failures: Sequence[dict[str, str]]) -> None:
    """List the clips without answers and why; no file where there is none."""
    path = folder / "failures.json"
    if failures:
        write_atomic(path, json.dumps(list(failures), indent=1, ensure_ascii=False) + "\n")
    else:
        path.unlink(missing_ok=True)


def _require_same(folder: Path, found: Sequence[Answer], new: dict[str, Any]) -> None:
    old, path = {}, folder / MANIFEST
    if path.is_file():
        old = read_json(path, "a manifest")
        if not isinstance(old, dict) or not {"seed", "queries", "top_k"} <= old.keys():
            given, remedy = f"{path} is damaged", "delete this file; answers stay"
            raise Ego2ExoError(given, "what `llava-ego2exo teach` wrote", remedy)
    # Logits can be added to answers without any; those of another k are not the same answers.
    names = [name for name in ("seed", "queries", "top_k") if old and (name != "top_k" or old[name])]
    differing = differences({name: old[name] for name in names}, {name: new[name] for name in names})
    wanted = {"teacher": new["teacher"]["fingerprint"], **new["settings"]}
    for answer in found:
        if foreign := differences({"teacher": answer.teacher, **answer.settings}, wanted):
            differing = [*foreign, *differing]
            break
    if differing:
        raise Ego2ExoError(
            f"{folder} was made with other settings: {shorten_list(differing, 10)}",
            "the same teacher, settings and queries in one folder: answers are never mixed",
            "give another --out, or the same as before",
        )


@dataclass(frozen=True)
class TopK:
    """Teacher logits of one answer, as numpy arrays.

    Args:
        ids: (T, k) int32, token ids, likeliest first.
        logits: (T, k) float16, their logits before softmax, descending.
        tokens: (T,) int32, the answer's own tokens, its end token included where there is one.
    """

    ids: Any
    logits: Any
    tokens: Any


def top_k_path(folder: str | Path, key: str) -> Path:
    """Where the logits of an answer are."""
    from ...host.training.stored_answers import file_of  # imports torch, which reading answers does not need

    return file_of(folder, key)


def save_top_k(folder: str | Path, key: str, top: TopK) -> Path:
    """Write one answer's logits atomically."""
    import numpy as np

    kinds, content = {"ids": np.int32, "logits": np.float16, "tokens": np.int32}, io.BytesIO()
    np.savez_compressed(content, **{name: np.asarray(getattr(top, name), kind) for name, kind in kinds.items()})
    return write_atomic(top_k_path(folder, key), content.getvalue())


def load_top_k(folder: str | Path, key: str) -> TopK:
    """Read one answer's logits, as the trainer does.

    Raises:
        Ego2ExoError: there are none, or the file is damaged.
    """
    from ...host.training.stored_answers import read_logits

    return TopK(**read_logits(folder, key))
