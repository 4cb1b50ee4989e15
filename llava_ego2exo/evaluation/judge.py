"""The judge of descriptions, and on request of multiple-choice replies that the parser cannot read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..runs.files import write_whole
from .judge_answers import choice_of, mark_of
from .judge_asking import Asker, Question, Verdict
from .judge_merging import merge_all, notes_of
from .judge_prompts import ASPECTS, CHOICE, PROMPT_VERSION, choose, grade, prompt_texts, prompts_hash, shortened
from .judge_rows import marked, materials, of_clips
from .judge_settings import JudgeSettings
from .outcomes import PARSED, UNPARSED, Described, Outcome

__all__ = ["PROMPTS", "Judge", "JudgeSettings", "prompt_texts"]

PROMPTS = "judge_prompts.json"


class Judge:
    """Scores descriptions, its answers kept in a folder: what was judged once costs nothing again.

    Args:
        settings: which judge, and how patiently it is asked.
        folder: of the results; gets `judge_cache.jsonl` and `judge_prompts.json`.
        sleep: waits so many seconds between retries.
        progress: show bars.
        only_kept: ask nobody; what is not in the folder is missing.

    Raises:
        Ego2ExoError: the cache is damaged.
    """

    def __init__(
        self, settings: JudgeSettings, folder: str | Path, sleep: Callable[[float], Any] = time.sleep,
        progress: bool = True, only_kept: bool = False,
    ) -> None:  # fmt: skip
        self.settings, self._folder = settings, Path(folder)
        self._asker = Asker(settings, folder, sleep, progress, only_kept)

    def check(self) -> None:
        """Make one small call, so that a judge that is not there is found before a model loads.

        Raises:
            Ego2ExoError: it cannot be reached, does not take the key, has no such model, or the `openai` package is
                missing.
        """
        self._asker.contact()

    def marks(self, rows: Sequence[Described]) -> list[Described]:
        """The rows with their scores; those that failed stay as they are.

        A row of clips is merged to one summary first. A score that the judge failed to give is None, its reason in
        `error`; consistency is scored only where the row has the two questions for it.

        Args:
            rows: descriptions of any models.

        Raises:
            Ego2ExoError: the first call shows that the judge cannot be reached or refuses.
        """
        self._store_prompts()
        summaries = self._summaries(rows)
        rows = [replace(row, summary=summaries[n].value or "") if n in summaries else row for n, row in enumerate(rows)]
        lost = {number: verdict for number, verdict in summaries.items() if verdict.error}
        asked = [
            (number, aspect, Question(aspect, grade(aspect, material), mark_of))
            for number, row in enumerate(rows)
            if number not in lost
            for aspect, material in materials(row, self.settings.max_chars).items()
        ]
        verdicts: list[dict[str, Verdict]] = [
            dict.fromkeys(ASPECTS, lost[n]) if n in lost else {} for n in range(len(rows))
        ]
        answers = self._asker.ask([question for *_, question in asked], "judging")
        for (number, aspect, _), verdict in zip(asked, answers, strict=True):
            verdicts[number][aspect] = verdict
        return [marked(row, found) for row, found in zip(rows, verdicts, strict=True)]

    def read_replies(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """The outcomes, with those parsed that the judge could read; where it names no option or fails they stay.

        Args:
            outcomes: of any models and modes.

        Raises:
            Ego2ExoError: the first call shows that the judge cannot be reached or refuses.
        """
        self._store_prompts()
        places = [n for n, one in enumerate(outcomes) if one.state == UNPARSED and one.reply.strip()]
        questions = [self._choice(outcomes[place]) for place in places]
        read = list(outcomes)
        for place, verdict in zip(places, self._asker.ask(questions, "reading replies"), strict=True):
            if verdict.value is not None:
                read[place] = replace(outcomes[place], state=PARSED, picked=verdict.value, judged=True)
        return read

    def provenance(self) -> dict[str, Any]:
        """What its scores hang on, and what asking took.

        `sent` and `answered_by` are of the answers in use, from the cache or not: settings that the server took, and
        models as it calls them. `calls` counts retries; `cache_hits` and `failures` count different questions.
        """
        asker, settings = self._asker, self.settings
        return {
            "model": settings.model,
            "url_host": settings.host,
            "prompt_version": PROMPT_VERSION,
            "prompts_sha256": prompts_hash(),
            "max_chars": settings.max_chars,
            "sent": [asker.sent[name] for name in sorted(asker.sent)],
            "answered_by": sorted(asker.models),
            "calls": asker.calls,
            "cache_hits": asker.counts["cache_hits"],
            "failures": asker.counts["failures"],
        }

    def close(self) -> None:
        """Close the cache and the connections."""
        self._asker.close()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _store_prompts(self) -> None:
        content = {"version": PROMPT_VERSION, "sha256": prompts_hash(), "prompts": prompt_texts()}
        write_whole(self._folder / PROMPTS, json.dumps(content, indent=1) + "\n")

    def _summaries(self, rows: Sequence[Described]) -> dict[int, Verdict]:
        """Number of each row of clips -> its summary, or why there is none."""
        most = self.settings.max_chars
        notes = {n: notes_of(row.items, row.replies, most) for n, row in enumerate(rows) if of_clips(row)}
        found = merge_all(notes, lambda asked: self._asker.ask(asked, "merging clips"), most)
        return {n: replace(one, error=f"no summary: {one.error}") if one.error else one for n, one in found.items()}

    def _choice(self, outcome: Outcome) -> Question:
        item, reply = outcome.item, shortened(outcome.reply.strip(), self.settings.max_chars)
        return Question(CHOICE, choose(item.question, item.choices, reply), choice_of(item.choices))
