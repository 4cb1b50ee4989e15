"""One folder of answers, one teacher with one way of answering: which there are, and the one to use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ..errors import Ego2ExoError
from ..runs.listing import listed

if TYPE_CHECKING:
    from .answers import Answer

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
    differences = listed(_differences(list(groups.values())))
    raise Ego2ExoError(
        f"{given} {len(groups)} teacher(s) or settings: {listed([_shown(group) for group in groups.values()])}"
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
