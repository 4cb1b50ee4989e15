"""An answers folder: one teacher, one way of asking, one process group at work in it."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.differences import differences
from ..common.files import write_whole
from ..common.json_io import read_json
from ..errors import Ego2ExoError
from ..runs.listing import listed
from .answers import Answer, read_answers, write_answers
from .pairs import Pair
from .plan import Plan
from .top_k import top_k_path

MANIFEST, FAILURES = "manifest.json", "failures.json"


def open_folder(folder: Path, manifest: dict[str, Any]) -> list[Answer]:
    """Check that the folder is this teacher's, note what is asked, and return the answers that are there.

    Raises:
        Ego2ExoError: it holds answers of another teacher or to other questions; says what differs.
    """
    found, path = read_answers(folder), folder / MANIFEST
    # A run that got no answer binds nobody.
    if found and path.is_file():
        _check(folder, _read(path), manifest)
    strangers = [a for a in found if not _is_ours(a, manifest)]
    if strangers:
        other = strangers[0]
        differing = differences(_about(other.teacher, other.settings), _about_manifest(manifest))
        raise Ego2ExoError(
            f"{folder} holds {len(strangers)} answer(s) of another teacher or other settings "
            f"({listed([f'{a.segment} {a.kind}' for a in strangers], 3)}): {listed(differing)}",
            "one teacher and one way of asking in a folder",
            "give another --out, or the same as before",
        )
    write_whole(path, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return found


def done_keys(folder: Path, found: Sequence[Answer], top_k: int) -> set[str]:
    """Keys whose answer is there, with its logits where these are wanted."""
    return {a.key for a in found if not top_k or top_k_path(folder, a.key).is_file()}


@dataclass(frozen=True)
class Finished:
    """What the folder holds now.

    Args:
        answers: number of answers to the questions of this run.
        missing: number of this run's questions without one.
        flags: how many of the answers have which flag.
        others: number of answers kept beside: of other splits and of segments that the pairs lack.
        dropped: number of answers left out: of a video that has changed, or under a segment's former name.
    """

    answers: int
    missing: int
    flags: dict[str, int]
    others: int
    dropped: int


def finish_folder(folder: Path, plan: Plan, chosen: Sequence[Pair], pairs: Sequence[Pair]) -> Finished:
    """Put all answers in order in one file.

    Order: that of the pairs, then of the kinds; then answers of segments that the pairs lack.

    Args:
        folder: of the answers.
        plan: of this run.
        chosen: the pairs of this run.
        pairs: all of the pairs file.
    """
    found = read_answers(folder)
    by_key = {answer.key: answer for answer in found}
    splits = {pair.segment: pair.split for pair in pairs}
    ours = []
    for (segment, kind), key in plan.places.items():
        if key in by_key:
            ours.append(dataclasses.replace(by_key[key], segment=segment, kind=kind, split=splits[segment]))
    asked = {pair.segment for pair in chosen}
    # A segment whose answer was taken over under a new name has no other use for the old record.
    used = {answer.key for answer in ours}
    others = [a for a in found if a.segment not in asked and not (a.key in used and a.segment not in splits)]
    places = {pair.segment: number for number, pair in enumerate(pairs)}
    order = {kind: number for number, kind in enumerate(dict.fromkeys(kind for _, kind in plan.places))}
    ordered = sorted(
        [*ours, *others], key=lambda a: (places.get(a.segment, len(places)), order.get(a.kind, len(order)))
    )
    write_answers(folder, ordered)
    flags = Counter(flag for answer in ours for flag in answer.flags)
    dropped = len(found) - len(
        {(a.key, a.segment, a.kind) for a in found} & {(a.key, a.segment, a.kind) for a in ordered}
    )
    return Finished(len(ours), len(plan.places) - len(ours), dict(flags), len(others), dropped)


def write_failures(folder: Path, failures: Sequence[dict[str, str]]) -> None:
    """List the clips without answers and why; no file where there is none."""
    path = folder / FAILURES
    if not failures:
        path.unlink(missing_ok=True)
        return
    write_whole(path, json.dumps(list(failures), indent=1, ensure_ascii=False) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        manifest = read_json(path, "a manifest")
        _about_manifest(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Ego2ExoError(
            f"{path} is damaged ({error})", "what `llava-ego2exo teach` wrote", "delete this file; answers stay"
        ) from error
    return manifest


def _check(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    differing = differences(_about_manifest(old), _about_manifest(new))
    # Logits can be added to answers without any; those of another k cannot be told apart.
    kept = ("seed", "queries", "top_k") if old.get("top_k") else ("seed", "queries")
    differing += differences({name: old.get(name) for name in kept}, {name: new[name] for name in kept})
    if differing:
        raise Ego2ExoError(
            f"{folder} was made otherwise: {listed(differing, 10)}",
            "the same teacher, settings and queries in one folder: answers are never mixed",
            "give another --out, or the same as before",
        )


def _about_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    return _about(manifest["teacher"]["fingerprint"], manifest["settings"])


def _about(teacher: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"teacher": teacher, **settings}


def _is_ours(answer: Answer, manifest: dict[str, Any]) -> bool:
    return _about(answer.teacher, answer.settings) == _about_manifest(manifest)
