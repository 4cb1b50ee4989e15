"""Everything that keeps pairs and answers from becoming a training file, found at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ...common.files import file_hash, video_hashes
from ...common.text import repeated, shorten_list
from ...errors import Ego2ExoError
from .samples import PLACEHOLDER

if TYPE_CHECKING:
    from ..pairs.pair import Pair
    from ..teach.store import Answer


class Faults:
    """Faults of several sorts, raised together.

    Each sort says its offenders (the first few and a count) and what to do about them.
    """

    def __init__(self) -> None:
        self._given: list[str] = []
        self._remedies: list[str] = []
        self._caught: list[Ego2ExoError] = []

    def add(self, offenders: Sequence[str], what: str, remedy: str) -> None:
        """One sort of fault; nothing happens without offenders."""
        if offenders:
            self._given.append(f"{len(offenders)} {what}: {shorten_list(offenders)}")
            self._remedies.append(remedy)

    def caught(self, error: Ego2ExoError) -> None:
        """An error that another check raised."""
        allowed = f" (allowed: {error.allowed.rstrip('.')})" if error.allowed else ""
        self._given.append(error.given.rstrip(".") + allowed)
        self._remedies += [error.remedy.rstrip(".")] if error.remedy else []
        self._caught.append(error)

    def raise_if_any(self) -> None:
        """Raises: Ego2ExoError: there are faults."""
        if len(self._given) == len(self._caught) == 1:
            raise self._caught[0]
        if self._given:
            raise Ego2ExoError(
                " | ".join(self._given),
                "whole videos that are there, and one answer of one teacher for each segment and kind",
                "; ".join(dict.fromkeys(self._remedies)),
            )


def check_pairs(pairs: Sequence[Pair], faults: Faults) -> None:
    """Training reads whole files, so each pair is one that was cut, and all its files are there."""
    uncut = [p.segment for p in pairs if p.start_s is not None or p.end_s is not None or p.offset_s]
    faults.add(
        uncut,
        "pair(s) are parts of longer videos (start_s, end_s or offset_s), and training reads whole files",
        "cut them first with `llava-ego2exo pairs cut`, and give the pairs that it writes",
    )
    missing = [
        f"{p.segment} {view}: {path}" for p in pairs for view, path in p.files.items() if not os.path.isfile(path)
    ]
    faults.add(missing, "video(s) of the pairs are not there", "mend the paths in the pairs file")


def unmatched(pairs: Sequence[Pair], segments: Iterable[str], answers: Sequence[Answer]) -> tuple[list[str], list[str]]:
    """Answers whose segment the pairs lack, and pairs that lack an answer, both as "segment kind".

    Args:
        pairs: of the split.
        segments: of all splits.
        answers: of one teacher.
    """
    known, given = set(segments), {(a.segment, a.kind) for a in answers}
    kinds = sorted({kind for _, kind in given})
    strangers = [f"{a.segment} {a.kind}" for a in answers if a.segment not in known]
    return strangers, [f"{p.segment} {kind}" for p in pairs for kind in kinds if (p.segment, kind) not in given]


def check_answers(answers: Sequence[Answer], faults: Faults) -> None:
    """One answer for each segment and kind, to a query that can be trained.

    Args:
        answers: of one teacher.
        faults: where to add what is wrong.
    """
    twice = repeated(f"{a.segment} {a.kind}" for a in answers)
    faults.add(
        twice,
        "segment(s) and kind(s) with several answers, of other queries",
        "let the teacher answer each set of queries into a folder of its own",
    )
    odd = [f"{a.segment} {a.kind}" for a in answers if PLACEHOLDER in a.query or not a.query.strip()]
    faults.add(odd, f"answer(s) whose query is empty or holds {PLACEHOLDER}", "mend the queries, and answer again")


def check_videos(pairs: Sequence[Pair], answers: Sequence[Answer], folder: str, faults: Faults) -> list[str]:
    """Answers were made from the very ego videos that the pairs name; returns segments where nobody can tell.

    An answer keeps the hash of its video. One that was made on a part of a longer video, before it was cut, has the
    hash of the long one: such segments are returned.

    Args:
        pairs: of the split.
        answers: of one teacher.
        folder: of the answers, which remembers hashes; files that have not changed since are not read again.
        faults: where to add what is wrong.
    """
    asked: dict[str, set[str]] = {}
    parts = []
    for answer in answers:
        if answer.start_s is None and answer.end_s is None:
            asked.setdefault(answer.segment, set()).add(answer.video)
        else:
            parts.append(answer.segment)
    known = [pair for pair in pairs if pair.segment in asked]
    paths = [pair.ego for pair in known]
    remembered = os.access(folder, os.W_OK)
    hashes = video_hashes(paths, folder) if remembered else {path: file_hash(path) for path in paths}
    changed = [pair for pair in known if asked[pair.segment] != {hashes[pair.ego]}]
    faults.add(
        [f"{pair.segment}: {pair.ego}" for pair in changed],
        "ego video(s) are not those that the teacher saw",
        "run `llava-ego2exo teach` again, which asks about the changed ones, with the other clips of their batches",
    )
    return sorted(set(parts) & {pair.segment for pair in pairs})


# One folder of answers, one teacher with one way of answering: which there are, and the one to use.

_SHOWN = 12


def only_teacher(answers: Sequence[Answer], wanted: str | None = None) -> list[Answer]:
    """The answers of the one teacher that there is, or of the one that is wanted.

    Args:
        answers: all of a folder.
        wanted: the beginning of a teacher's fingerprint; behind a colon, where one teacher answered with several
            settings, the beginning of the settings' name as the error shows it ("3f2a91:77c0").

    Raises:
        Ego2ExoError: none or several are meant; says what differs between them.
    """
    groups: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        groups.setdefault((answer.teacher, settings_name(answer.settings)), []).append(answer)
    teacher, _, settings = (wanted or "").partition(":")
    chosen = [group for name, group in groups.items() if name[0].startswith(teacher) and name[1].startswith(settings)]
    if len(chosen) == 1:
        return chosen[0]
    given = "the answers come from" if wanted is None else f"--teacher {wanted} fits {len(chosen)} of"
    differences = shorten_list(_differences(list(groups.values())))
    raise Ego2ExoError(
        f"{given} {len(groups)} teacher(s) or settings: {shorten_list([_shown(group) for group in groups.values()])}"
        + (f"; they differ in {differences}" if differences else ""),
        "answers of one teacher with one kind of settings",
        "choose one with --teacher NAME, or let each teacher answer into a folder of its own",
    )


def settings_name(settings: dict[str, Any]) -> str:
    """A short name for settings: hex digits from their content."""
    return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:_SHOWN]


def teacher_name(answer: Answer) -> str:
    """What `--teacher` takes to choose the answers like this one."""
    return f"{answer.teacher[:_SHOWN]}:{settings_name(answer.settings)}"


def _shown(group: list[Answer]) -> str:
    return f"{teacher_name(group[0])} ({len(group)} answers)"


def _differences(groups: list[list[Answer]]) -> list[str]:
    """ "name: value / value" for everything that is not the same in all groups."""
    columns = [{"teacher": group[0].teacher[:_SHOWN], **group[0].settings} for group in groups]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = {name: [json.dumps(c[name]) if name in c else "absent" for c in columns] for name in names}
    return [f"{name}: {' / '.join(values)}" for name, values in rows.items() if len(set(values)) > 1]
