"""Faults of pairs and answers that keep them from becoming a training file, reported at once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeVar

from ...common.files import file_hash, video_hashes
from ...common.text import repeated, shorten_list
from ...errors import Ego2ExoError
from ..pairs.build import leaks
from ..pairs.file import require_files
from .samples import PLACEHOLDERS

if TYPE_CHECKING:
    from ..pairs.pair import Pair
    from ..teach.store import Answer

Result = TypeVar("Result")
_NAME_DIGITS = 12


class Faults:
    """Faults of several sorts, raised together."""

    def __init__(self) -> None:
        self._errors: list[Ego2ExoError] = []

    def add(self, offenders: Sequence[str], what: str, remedy: str) -> None:
        """Add one sort of fault; without offenders nothing happens."""
        if offenders:
            self._errors.append(Ego2ExoError(f"{len(offenders)} {what}: {shorten_list(offenders)}", "", remedy))

    def catch(self, function: Callable[[], Result]) -> Result | None:
        """The function's result; None if it raised, which is added."""
        try:
            return function()
        except Ego2ExoError as error:
            self._errors.append(error)
            return None

    def raise_if_any(self) -> None:
        """Raise one error for all faults, if there is one."""
        if not self._errors:
            return
        if len(self._errors) == 1 and self._errors[0].allowed:
            raise self._errors[0]
        raise Ego2ExoError(
            " | ".join(e.given + (f" (allowed: {e.allowed})" if e.allowed else "") for e in self._errors),
            "whole videos that exist, and one answer of one teacher for each segment and kind",
            "; ".join(dict.fromkeys(error.remedy for error in self._errors if error.remedy)),
        )


def check_pairs(pairs: Sequence[Pair], faults: Faults) -> None:
    """Training reads whole files, so each pair must have been cut, and its files exist."""
    uncut = [p.segment for p in pairs if p.start_s is not None or p.end_s is not None or p.offset_s]
    faults.add(
        uncut,
        "pair(s) are parts of longer videos (start_s, end_s or offset_s), and training reads whole files",
        "cut them with `llava-ego2exo pairs cut`, and pass the pairs that it writes",
    )
    faults.catch(lambda: require_files(pairs))


def check_splits(pairs: Sequence[Pair], split: str, faults: Faults) -> None:
    """No take of a split is in another one too."""
    faults.add(
        [f"{take} ({', '.join(splits)})" for take, splits in leaks(pairs).items() if split in splits],
        "take(s) are in several splits, so the student would be tested on videos it was trained on",
        "put each take in one split; `llava-ego2exo pairs check --write-clean` keeps the first",
    )


def check_answers(answers: Sequence[Answer], faults: Faults) -> None:
    """One teacher's answers: one for each segment and kind, to a query that can be trained on."""
    faults.add(
        repeated(f"{a.segment} {a.kind}" for a in answers),
        "segment(s) and kind(s) with several answers, of other queries",
        "let the teacher answer each set of queries into a folder of its own",
    )
    held = " or ".join(p for p in PLACEHOLDERS if any(p in a.query for a in answers)) or PLACEHOLDERS[0]
    odd = [f"{a.segment} {a.kind}" for a in answers if not a.query.strip() or any(p in a.query for p in PLACEHOLDERS)]
    faults.add(odd, f"answer(s) whose query is empty or holds {held}", "fix the queries, and run `teach` again")


def check_videos(pairs: Sequence[Pair], answers: Sequence[Answer], folder: str, faults: Faults) -> list[str]:
    """The ego videos are those that the teacher saw; returns the segments whose videos cannot be compared.

    An answer has the hash of its video; one about a part of a video that was cut later has the hash of the long one.
    The folder keeps hashes, so that files unchanged since are not read again.
    """
    hashes_of: dict[str, set[str]] = {}
    parts = set()
    for answer in answers:
        if answer.start_s is None and answer.end_s is None:
            hashes_of.setdefault(answer.segment, set()).add(answer.video)
        else:
            parts.add(answer.segment)
    known = [pair for pair in pairs if pair.segment in hashes_of]
    paths = [pair.ego for pair in known]
    hashes = video_hashes(paths, folder) if os.access(folder, os.W_OK) else {path: file_hash(path) for path in paths}
    faults.add(
        [f"{pair.segment}: {pair.ego}" for pair in known if hashes_of[pair.segment] != {hashes[pair.ego]}],
        "ego video(s) are not those that the teacher saw",
        "run `llava-ego2exo teach` again, which asks about the changed ones and the other clips of their batches",
    )
    return sorted(parts & {pair.segment for pair in pairs})


def only_teacher(answers: Sequence[Answer], name: str | None = None) -> list[Answer]:
    """The answers of the only teacher, or of the one whose name begins so.

    A name is the teacher's fingerprint and, after a colon, the hash of its settings: "3f2a91:77c0".

    Raises:
        Ego2ExoError: none or several match; lists what differs between them.
    """
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(teacher_name(answer), []).append(answer)
    teacher, _, settings = (name or "").partition(":")
    chosen = [
        group
        for key, group in groups.items()
        if group[0].teacher.startswith(teacher) and key.partition(":")[2].startswith(settings)
    ]
    if len(chosen) == 1:
        return chosen[0]
    given = "the answers come from" if name is None else f"--teacher {name} fits {len(chosen)} of"
    names = shorten_list([f"{key} ({len(group)} answers)" for key, group in groups.items()])
    differences = shorten_list(_differences([group[0] for group in groups.values()]))
    raise Ego2ExoError(
        f"{given} {len(groups)} teacher(s) or settings: {names}"
        + (f"; they differ in {differences}" if differences else ""),
        "answers of one teacher with the same settings",
        "choose one with --teacher NAME, or let each teacher answer into a folder of its own",
    )


def teacher_name(answer: Answer) -> str:
    """The name by which `--teacher` chooses answers like this one: fingerprint, and hash of the settings."""
    settings = sha256(json.dumps(answer.settings, sort_keys=True).encode()).hexdigest()
    return f"{answer.teacher[:_NAME_DIGITS]}:{settings[:_NAME_DIGITS]}"


def _differences(answers: Sequence[Answer]) -> list[str]:
    """`name: value / value` for each setting, and the teacher, that is not the same in all answers."""
    columns: list[dict[str, Any]] = [{"teacher": a.teacher[:_NAME_DIGITS], **a.settings} for a in answers]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = {name: [json.dumps(c[name]) if name in c else "absent" for c in columns] for name in names}
    return [f"{name}: {' / '.join(values)}" for name, values in rows.items() if len(set(values)) > 1]
