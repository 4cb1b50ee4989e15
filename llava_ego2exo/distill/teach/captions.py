"""Published teacher answers, the authors' `captions_proc_<i>.json`, as an answers folder.

Each process of their script writes one such file: `{"<segment>_ego.mp4": {query: answer}}`, with the string
`"ERROR: ..."` in place of what failed.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...common.files import locked, video_hashes
from ...common.json_io import read_json
from ...common.text import shorten_list
from ...errors import Ego2ExoError
from ..pairs.file import read_pairs, require_files
from ..pairs.pair import Pair
from .job import QUERIES, flags, wording_fault
from .store import Answer, AnswerCounts, answer_key, answer_store, finish_folder, open_folder

FILES = "captions_proc_*.json"
# No checkpoint or setting is known: all imported answers have these.
TEACHER = "captions"
SETTINGS: dict[str, Any] = {"imported": True}
_ERROR = "ERROR:"
_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")
_SHAPE = '{"<segment>_ego.mp4": {"<query>": "<answer>", ...}, ...}, and "ERROR: ..." in place of what failed'


@dataclass
class Captions:
    """What the files hold.

    Args:
        answers: name of the ego clip -> query -> answer, None where that failed; queries in the file's order.
        failed: clips without any answer, and why.
        files: clip -> the file that has it.
    """

    answers: dict[str, dict[str, str | None]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def import_captions(given: Sequence[str], pairs_file: str, out: str, split: str = "train") -> str:
    """Write the answers of the files about the pairs of a split; returns the report.

    The first three queries of a clip get the kinds descriptive, temporal and spatial: the order in which the authors'
    script asks them.

    Raises:
        Ego2ExoError: a file cannot be read or has another shape, files contradict each other, no clip is a pair's, or
            the folder holds another teacher's answers.
    """
    files = _files(given)
    captions = read_captions(files)
    pairs = read_pairs(pairs_file)
    chosen = [pair for pair in pairs if split in (pair.split, "all")]
    found, unknown = _matched(captions, chosen)
    if not found:
        raise Ego2ExoError(
            f"none of {len(captions.answers)} answered clip(s) is the ego clip of a pair of split {split}: "
            f"{shorten_list(list(captions.answers) or list(captions.failed.values()))}",
            "files whose names, or whose segments, are those of the pairs",
            "check --pairs, --split and --import",
        )
    _require_whole([pair for pair, _ in found])
    counts, complete, replaced = _store(captions, found, pairs, files, Path(out))
    there = {pair.segment for pair, _ in found}
    missing = [pair.segment for pair in chosen if pair.segment not in there]
    single = [(clip, query) for clip, own in captions.answers.items() for query, one in own.items() if one is None]
    left_out = {
        f"clip(s) left out, as they failed ({_ERROR})": [f"{clip}: {why}" for clip, why in captions.failed.items()],
        f"answer(s) left out, as they failed ({_ERROR})": [f"{clip}: {query}" for clip, query in single],
        f"clip(s) left out, as no pair of split {split} has them": unknown,
        f"pair(s) of split {split} without an answer": missing,
    }
    others = {"flagged": sum(counts.flags.values()), "replaced": replaced}
    others |= {"kept beside": counts.others, "dropped": counts.dropped}
    command = shlex.join(["llava-ego2exo", "targets", "--pairs", pairs_file, "--answers", out, "--out", "train.json"])
    return "\n".join([
        f"{counts.answers} answers about {len(there)} clip(s) in {out}/answers.jsonl, from {len(files)} file(s)",
        *(f"{len(names)} {what}: {shorten_list(names)}" for what, names in left_out.items() if names),
        *(f"{what}: {count} answer(s)" for what, count in others.items() if count),
        f"next: {command}{'' if complete and not missing else ' --allow-missing'}",
    ])  # fmt: skip


def _store(
    captions: Captions, found: Sequence[tuple[Pair, str]], pairs: Sequence[Pair], files: Sequence[Path], folder: Path
) -> tuple[AnswerCounts, bool, int]:
    """Write the answers; returns what the folder holds, whether each clip has an answer of every kind, and how many
    answers that were there read otherwise now."""
    teacher = {"model": TEACHER, "base": None, "fingerprint": TEACHER}
    asked = {"files": list(map(str, files)), "seed": 0, "top_k": 0, "queries": {}}
    with locked(folder):
        before = open_folder(folder, {"teacher": teacher, "settings": SETTINGS, **asked})
        hashes = video_hashes([pair.ego for pair, _ in found], folder)
        records = [one for pair, clip in found for one in _records(pair, captions.answers[clip], hashes[pair.ego])]
        with answer_store(folder).part() as part:
            part.append(records)
        places = {(one.segment, one.kind): one.key for one in records}
        counts = finish_folder(folder, places, [pair for pair, _ in found], pairs)
    new = {one.key: one.answer for one in records}
    replaced = sum(new.get(one.key, one.answer) != one.answer for one in before)
    return counts, len(records) == len(found) * len({one.kind for one in records}), replaced


def read_captions(files: Sequence[Path]) -> Captions:
    """The clips of several files together.

    Raises:
        Ego2ExoError: names the first faults of all files and counts the rest.
    """
    captions, faults = Captions(), []
    for path in files:
        content = read_json(path, f"published answers: {_SHAPE}")
        if not isinstance(content, dict):
            faults.append(f"{path} is a {type(content).__name__}, not an object")
            continue
        for name, value in content.items():
            clip = re.split(r"[/\\]", name)[-1]
            own = list(_faults(value)) if clip and not _NO_TEXT.search(clip) else ["names no file"]
            own = own or _add(captions, clip, value, str(path))
            faults += [f"{path}: {ascii(name)[1:-1][:80]}: {fault}" for fault in own]
    if faults:
        raise Ego2ExoError(f"{len(faults)} fault(s): {shorten_list(faults)}", _SHAPE, "fix or remove these entries")
    captions.failed = {clip: why for clip, why in captions.failed.items() if clip not in captions.answers}
    return captions


def _files(given: Sequence[str]) -> list[Path]:
    """Files, those of folders, and those that patterns match, in order of their numbers."""
    files: dict[str, Path] = {}
    for text in given:
        pattern = os.path.join(glob.escape(text), FILES) if os.path.isdir(text) else text
        matches = [text] if os.path.isfile(text) else glob.glob(pattern)
        if not matches:
            remedy = f"pass the files, a pattern or the folder of {FILES}"
            raise Ego2ExoError(f"--import {text} is no file", "files that are there", remedy)
        files |= {os.path.realpath(path): Path(path) for path in matches}
    return sorted(files.values(), key=lambda path: (len(path.name), str(path)))


def _faults(value: Any) -> Iterator[str]:
    """What is wrong with the value of one clip."""
    if isinstance(value, str) and value.strip().startswith(_ERROR):
        return
    if not isinstance(value, dict):
        yield f"is a {type(value).__name__}, neither an object of query: answer nor {_ERROR} ..."
        return
    for query, answer in value.items():
        fault = wording_fault(query.strip())
        if fault:
            yield f"query {fault}"
        if not isinstance(answer, str):
            yield f"the answer to {ascii(query)[:60]} is a {type(answer).__name__}, not a text"
        elif _NO_TEXT.search(answer):
            yield f"the answer to {ascii(query)[:60]} is no valid Unicode text"


def _add(captions: Captions, clip: str, value: Any, file: str) -> list[str]:
    """Add what one file says about a clip; returns a contradiction to another file."""
    texts = {query.strip(): answer.strip() for query, answer in value.items()} if isinstance(value, dict) else {}
    answers = {query: None if text.startswith(_ERROR) else text for query, text in texts.items()}
    if not any(answer is not None for answer in answers.values()):
        first = value if isinstance(value, str) else next(iter(texts.values()), "no answer")
        captions.failed.setdefault(clip, " ".join(first.split())[:80])
        return []
    before = captions.answers.get(clip, {})
    # A process that was stopped leaves the first answers of a clip; another run of it may have all of them.
    few, many = sorted((before, answers), key=lambda own: sum(answer is not None for answer in own.values()))
    if any(many.get(query) != answer for query, answer in few.items() if answer is not None):
        return [f"has other answers in {captions.files[clip]}"]
    captions.answers[clip] = many
    captions.files[clip] = file
    return []


def _matched(captions: Captions, pairs: Sequence[Pair]) -> tuple[list[tuple[Pair, str]], list[str]]:
    """(pair, clip) in the order of the pairs, and the clips that no pair has."""
    found: dict[str, list[Pair]] = {clip: [] for clip in captions.answers}
    matched = []
    for pair in pairs:
        names = (os.path.basename(pair.ego), f"{pair.segment}_ego.mp4")
        for clip in [name for name in names if name in found][:1]:
            found[clip].append(pair)
            matched.append((pair, clip))
    several = {clip: own for clip, own in found.items() if len(own) > 1}
    if several:
        shown = [f"{clip}: {', '.join(pair.segment for pair in own)}" for clip, own in several.items()]
        one_name = any(len({pair.ego for pair in own}) > 1 for own in several.values())
        raise Ego2ExoError(
            f"{len(several)} clip(s) are of several pairs: {shorten_list(shown)}",
            "one pair for each ego clip",
            "name these clips <segment>_ego.mp4 in the files: ego files of several takes have the same name"
            if one_name else "give --pairs that hold each ego file once",
        )  # fmt: skip
    return matched, [clip for clip, own in found.items() if not own]


def _require_whole(pairs: Sequence[Pair]) -> None:
    parts = [pair.segment for pair in pairs if pair.start_s is not None or pair.end_s is not None]
    if parts:
        raise Ego2ExoError(
            f"{len(parts)} pair(s) are parts of longer videos: {shorten_list(parts)}",
            "pairs of whole clips, which the answers are about",
            "cut them with `llava-ego2exo pairs cut`, and pass the pairs that it writes",
        )
    require_files(pairs)


def _records(pair: Pair, answers: dict[str, str | None], video: str) -> Iterator[Answer]:
    kinds = list(QUERIES)
    for place, (query, answer) in enumerate(answers.items()):
        if answer is not None:
            yield Answer(
                key=answer_key(video, None, None, query, TEACHER, SETTINGS), segment=pair.segment, split=pair.split,
                kind=kinds[place] if place < len(kinds) else f"query{place + 1}", query=query, answer=answer,
                flags=flags(answer, ended=True), tokens=0, video=video, start_s=None, end_s=None, teacher=TEACHER,
                settings=SETTINGS,
            )  # fmt: skip
