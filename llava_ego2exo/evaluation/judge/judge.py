"""The judge of descriptions, and on request of multiple-choice replies that the parser cannot read.

Descriptions of short clips are first merged into one of the whole video, in as many calls as their length needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ...common.endpoints import shown_url
from ...common.files import write_atomic
from ...common.text import shorten_list
from ..items import CONSISTENCY_1, CONSISTENCY_2, FAILED, MAIN, PARSED, UNPARSED, Described, Item, Outcome
from . import prompts
from .client import JudgeClient, JudgeRequest, Verdict
from .prompts import CHOICE, CONSISTENCY, MAIN_ASPECTS, MERGE, shortened
from .settings import JudgeSettings

PROMPTS_FILE = "judge_prompts.json"


def open_judge(settings: JudgeSettings | None, folder: Path, stored: dict[str, Any] | None = None) -> Judge | None:
    """The judge of a command line; without one, the cached answers of the earlier run whose settings are `stored`."""
    if settings is not None:
        return Judge(settings, folder)
    return Judge(JudgeSettings(**stored), folder, cached_only=True) if stored else None


class Judge:
    """Scores descriptions, its answers cached in a folder: no request is made twice.

    Args:
        settings: of the judge.
        folder: of the results; gets `judge_cache.jsonl` and `judge_prompts.json`.
        progress: show bars.
        cached_only: make no call; what is not in the cache is missing.

    Raises:
        Ego2ExoError: the cache is damaged.
    """

    def __init__(
        self, settings: JudgeSettings, folder: str | Path, progress: bool = True, cached_only: bool = False
    ) -> None:
        self.settings, self._folder = settings, Path(folder)
        self._client = JudgeClient(settings, folder, progress, cached_only)

    def check(self) -> None:
        """Make one small call, so that a judge that does not work is found before a model loads.

        Raises:
            Ego2ExoError: it cannot be reached, does not take the key, has no such model, or the `openai` package is
                missing.
        """
        self._client.check()

    def score(self, rows: Sequence[Described]) -> list[Described]:
        """The rows with their scores; those that failed stay as they are.

        A row of clips is merged to one summary first. A score that the judge failed to give is None, its reason in
        `error`; consistency is scored only where the row has the two questions for it.

        Raises:
            Ego2ExoError: the first call shows that the judge cannot be reached or refuses.
        """
        self._store_prompts()
        limit = self.settings.max_chars
        notes = {n: clip_notes(row.items, row.replies, limit) for n, row in enumerate(rows) if _is_clips(row)}
        summaries = merge_rows(notes, lambda requests: self._client.ask(requests, "merging clips"), limit)
        rows = [replace(row, summary=summaries[n].value or "") if n in summaries else row for n, row in enumerate(rows)]
        verdicts: list[dict[str, Verdict]] = [{} for _ in rows]
        requests = []
        for number, row in enumerate(rows):
            if number in summaries and summaries[number].error:
                lost = Verdict(error=f"no summary: {summaries[number].error}")
                verdicts[number] = dict.fromkeys(MAIN_ASPECTS, lost)
                continue
            for aspect, material in _materials(row, limit).items():
                requests.append((number, aspect, JudgeRequest(aspect, material)))
        answers = self._client.ask([request for *_, request in requests], "judging")
        for (number, aspect, _), verdict in zip(requests, answers, strict=True):
            verdicts[number][aspect] = verdict
        return [_scored(row, found) for row, found in zip(rows, verdicts, strict=True)]

    def read_replies(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """The outcomes, with those parsed that the judge could read; where it names no option or fails they stay.

        Raises:
            Ego2ExoError: the first call shows that the judge cannot be reached or refuses.
        """
        self._store_prompts()
        places = [n for n, one in enumerate(outcomes) if one.state == UNPARSED and one.reply.strip()]
        requests = []
        for place in places:
            item, reply = outcomes[place].item, shortened(outcomes[place].reply.strip(), self.settings.max_chars)
            options = "\n".join(f"{key}: {text}" for key, text in item.choices.items())
            material = {"QUESTION": item.question, "OPTIONS": options, "REPLY": reply}
            requests.append(JudgeRequest(CHOICE, material, tuple(item.choices)))
        read = list(outcomes)
        for place, verdict in zip(places, self._client.ask(requests, "reading replies"), strict=True):
            if verdict.value is not None:
                read[place] = replace(outcomes[place], state=PARSED, picked=verdict.value, judged=True)
        return read

    def provenance(self) -> dict[str, Any]:
        """What its scores depend on, and what they cost.

        `sent` and `answered_by` are of the answers in use, cached or not: settings that the server accepted, and models
        as it names them. `calls` leaves out the client's retries; `cache_hits` and `failures` count different requests.
        """
        client, settings = self._client, self.settings
        used = client.used.values()
        sent = {json.dumps(one.sent, sort_keys=True): one.sent for one in used}
        return {
            "model": settings.model,
            "url": shown_url(settings.url),
            "prompt_version": prompts.PROMPT_VERSION,
            "prompts_sha256": prompts.prompts_hash(),
            "max_chars": settings.max_chars,
            "sent": [sent[text] for text in sorted(sent)],
            "answered_by": sorted({one.model for one in used}),
            **{name: client.counts[name] for name in ("calls", "cache_hits", "failures")},
        }

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_error: object) -> None:
        self._client.close()

    def _store_prompts(self) -> None:
        texts, digest = prompts.prompt_texts(), prompts.prompts_hash()
        content = {"version": prompts.PROMPT_VERSION, "sha256": digest, "prompts": texts}
        write_atomic(self._folder / PROMPTS_FILE, json.dumps(content, indent=1) + "\n")


def _is_clips(row: Described) -> bool:
    """Whether its replies are about clips, to be merged before they are judged."""
    return row.state != FAILED and all(item.part.isdecimal() for item in row.items)


def _materials(row: Described, limit: int) -> dict[str, dict[str, str]]:
    """Aspect -> what the judge is shown for it, by name; none of a row that failed."""
    if row.state == FAILED:
        return {}
    asked = zip(row.items, row.replies, strict=True)
    parts = {item.part or MAIN: (item, shortened(reply, limit)) for item, reply in asked}
    if _is_clips(row):
        parts = {MAIN: (row.items[0], shortened(row.summary, limit))}
    found: dict[str, dict[str, str]] = {}
    if MAIN in parts:
        item, reply = parts[MAIN]
        material = {"QUESTION": item.question, "REFERENCE": item.answer, "REPLY": reply}
        found |= dict.fromkeys(MAIN_ASPECTS, material)
    if CONSISTENCY_1 in parts and CONSISTENCY_2 in parts:
        (first, reply_1), (second, reply_2) = parts[CONSISTENCY_1], parts[CONSISTENCY_2]
        found[CONSISTENCY] = {
            "QUESTION 1": first.question, "QUESTION 2": second.question, "REFERENCE": first.answer,
            "REPLY 1": reply_1, "REPLY 2": reply_2,
        }  # fmt: skip
    return found


def _scored(row: Described, verdicts: Mapping[str, Verdict]) -> Described:
    """The row with its scores; the reasons of missing ones are its error."""
    if not verdicts:
        return row
    aspects_of: dict[str, list[str]] = {}
    for aspect, verdict in verdicts.items():
        if verdict.error:
            aspects_of.setdefault(verdict.error, []).append(aspect)
    error = shorten_list([f"{', '.join(aspects)}: {reason}" for reason, aspects in aspects_of.items()])
    scores = {aspect: verdict.value for aspect, verdict in verdicts.items()}
    return replace(row, scores=scores, state="unjudged" if aspects_of else "judged", error=error)


class ClipNote(NamedTuple):
    """The description of one stretch of a video, and where that begins and ends, as shown to the judge."""

    text: str
    start: str
    end: str

    def __str__(self) -> str:
        return f"[{self.start} to {self.end}] {self.text}"


def clip_notes(items: Sequence[Item], replies: Sequence[str], limit: int) -> list[ClipNote]:
    """Notes of a row's clips in order of time, each shorter than half of `limit`; empty replies are left out."""
    pairs = sorted(zip(items, replies, strict=True), key=lambda pair: int(pair[0].part))
    return [_note(reply, f"{item.start_s:g} s", f"{item.end_s:g} s", limit) for item, reply in pairs if reply.strip()]


def _note(text: str, start: str, end: str, limit: int) -> ClipNote:
    # Room for the times in front, and for the remark that something was left out.
    return ClipNote(shortened(text.strip(), limit // 2 - 100), start, end)


def chunks(notes: Sequence[ClipNote], limit: int) -> list[list[ClipNote]]:
    """Consecutive notes, as many in a chunk as fit in `limit` characters with their line breaks: two or more."""
    made: list[list[ClipNote]] = []
    length = 0
    for note in notes:
        size = len(str(note)) + 1
        if not made or length + size > limit:
            made.append([])
            length = 0
        made[-1].append(note)
        length += size
    return made


def merge_rows(
    rows: Mapping[int, list[ClipNote]], ask: Callable[[Sequence[JudgeRequest]], list[Verdict]], limit: int
) -> dict[int, Verdict]:
    """One text for each row, by its number: chunks are merged, then the results, until one is left."""
    done: dict[int, Verdict] = {}
    left = dict(rows)
    while left:
        done |= {number: Verdict(notes[0].text if notes else "") for number, notes in left.items() if len(notes) < 2}
        parts = [(n, chunk) for n, notes in left.items() if n not in done for chunk in chunks(notes, limit)]
        left = {}
        lines = ["\n".join(map(str, chunk)) for _, chunk in parts if len(chunk) > 1]
        verdicts = iter(ask([JudgeRequest(MERGE, {"NOTES": text}) for text in lines]))
        for number, chunk in parts:
            verdict = next(verdicts) if len(chunk) > 1 else Verdict(chunk[0].text)
            if verdict.error:
                done.setdefault(number, verdict)
            else:
                left.setdefault(number, []).append(_note(verdict.value, chunk[0].start, chunk[-1].end, limit))
        left = {number: notes for number, notes in left.items() if number not in done}
    return done
