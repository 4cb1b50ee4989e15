"""From stored replies to results: parsed, judged and reported, at the end of a run and by `--rescore`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ..common.files import file_hash, locked, write_atomic
from ..common.jsonl import json_line, read_lines, record_of
from ..errors import Ego2ExoError
from .items import (
    CHOICE,
    FAILED,
    LIKELIHOOD,
    MISLABELLED,
    ORIGIN,
    PARSED,
    UNPARSED,
    Described,
    Item,
    Outcome,
    Reply,
    read_replies,
    reply_store,
)
from .judge.judge import open_judge
from .judge.settings import JudgeSettings
from .plan import MANIFEST, read_manifest
from .preparation import ITEMS, EvalPreparation
from .replies.parser import PARSERS, parse_answer, read_answer
from .report.report import write_evaluation_report

_TYPES: dict[str, tuple[type, ...]] = {
    "choices": (dict,), "start_s": (int, float, type(None)), "end_s": (int, float, type(None)),
}  # fmt: skip


@dataclass(frozen=True)
class EvalResults:
    """What a run or a rescoring found, models and modes in order, and what `metrics.json` holds."""

    outcomes: list[Outcome]
    described: list[Described]
    metrics: dict[str, Any]


def finish(
    folder: Path, prepared: EvalPreparation, judge: JudgeSettings | None, compare_to: str | None = None
) -> EvalResults:
    """Put the replies of a run in order on disk, behind them those of items that it leaves out; and report."""
    replies = {}
    for run in prepared.runs:
        found = read_replies(run.folder)
        own = {id_: found[key] for id_, key in run.keys.items() if key in found}
        others = [reply for reply in found.values() if reply.id not in run.keys]
        reply_store(run.folder).finish([*own.values(), *sorted(others, key=lambda reply: reply.id)])
        replies[run.model.name, run.mode] = own
    return report(folder, prepared.items, replies, prepared.manifest, judge, compare_to)


def rescore(out: str, parser: str | None, judge: JudgeSettings | None, compare_to: str | None = None) -> EvalResults:
    """Parse the stored replies of a folder anew; no model, no video and no data file is needed.

    Args:
        out: the folder that `llava-ego2exo eval` wrote.
        parser: name of what parses replies; None: as before.
        judge: to be asked; None: stored scores are used.
        compare_to: the model that others are compared with; None: as before.

    Raises:
        Ego2ExoError: it is not an evaluation folder, or damaged.
    """
    folder = Path(out)
    manifest = read_manifest(folder)
    parser = parser or manifest.get("parser")
    if parser not in PARSERS:
        raise Ego2ExoError(f"--parser {parser}", ", ".join(PARSERS))
    if not (folder / ITEMS).is_file():
        raise Ego2ExoError(f"{folder / ITEMS} is not there", "a folder that `llava-ego2exo eval` wrote", "check it")
    with locked(folder):
        if file_hash(str(folder / ITEMS)) != manifest.get("items sha256"):
            raise Ego2ExoError(
                f"{folder / ITEMS} is not the one that the run wrote", "an unchanged file",
                "run the same `llava-ego2exo eval` again, which writes it anew; replies stay",
            )  # fmt: skip
        items = list(read_lines(folder / ITEMS, lambda one: record_of(Item, one, _TYPES), torn=False, origin=ORIGIN))
        manifest = {**manifest, "parser": parser}
        if judge is not None:
            manifest["judge settings"] = judge.to_dict()
        write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        replies = {
            (model["name"], mode): {reply.id: reply for reply in read_replies(folder / model["name"] / mode).values()}
            for model in manifest["models"]
            for mode in manifest["modes"]
        }
        compare_to = compare_to or manifest.get("compared with")
        return report(folder, items, replies, {**manifest, "compared with": compare_to}, judge, compare_to)


def report(
    folder: Path, items: Sequence[Item], replies: Mapping[tuple[str, str], Mapping[str, Reply]],
    manifest: dict[str, Any], judge: JudgeSettings | None, compare_to: str | None = None,
) -> EvalResults:  # fmt: skip
    """Parse replies ((model, mode) -> item's id -> reply), judge them, and write results, metrics and pages."""
    outcomes, described = [], []
    for (model, mode), own in replies.items():
        choices = [item for item in items if item.kind == CHOICE]
        outcomes += [_outcome(item, own.get(item.id), model, mode, manifest["parser"]) for item in choices]
        described += _descriptions(items, own, model)
    asked = open_judge(judge, folder, manifest["judge settings"])
    if asked is not None:
        with asked:
            described = asked.score(described)
            outcomes = asked.read_replies(outcomes) if asked.settings.read_unparsed else outcomes
            manifest = {**manifest, "judge": asked.provenance()}
    write_atomic(folder / "results.jsonl", "".join(json_line(_result(one)) for one in (*outcomes, *described)))
    write_evaluation_report(folder, outcomes, described, manifest, compare_to)
    measured = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return EvalResults(outcomes, described, measured)


def _result(one: Outcome | Described) -> dict[str, Any]:
    """One line of `results.jsonl`: what was parsed, beside what was asked."""
    record = dataclasses.asdict(one)
    if isinstance(one, Outcome):
        item = record.pop("item")
        shown = {name: item[name] for name in ("id", "category", "view", "video", "question", "choices", "answer")}
        return {**shown, **record, "right": one.right}
    items = record.pop("items")
    return {"row": items[0]["row"], "video": items[0]["video"], "questions": [i["question"] for i in items], **record}


def _outcome(item: Item, reply: Reply | None, model: str, mode: str, parser: str) -> Outcome:
    if reply is None or reply.error:
        return Outcome(item, model, mode, FAILED, error=reply.error if reply else _no_reply(item))
    if mode == LIKELIHOOD:
        if reply.scores.keys() != item.choices.keys():
            return Outcome(item, model, mode, FAILED, error="the stored scores are not those of its options")
        # The first of equal ones, as `max` has it.
        picked = max(reply.scores, key=reply.scores.__getitem__)
        return Outcome(item, model, mode, PARSED, picked, scores=reply.scores)
    picked, flags = PARSERS[parser](reply.reply, item.choices), reply.flags
    if PARSERS[parser] is parse_answer and read_answer(reply.reply, item.choices).mislabelled:
        flags = (*flags, MISLABELLED)
    return Outcome(item, model, mode, PARSED if picked else UNPARSED, picked, reply.reply, flags=flags)


def _no_reply(item: Item) -> str:
    if item.path:
        return "not asked yet: the run was stopped; the same command resumes"
    return "the video is not there, or may not be read"


def _descriptions(items: Sequence[Item], replies: Mapping[str, Reply], model: str) -> list[Described]:
    """One for each row of a description benchmark, whose items stand together; not judged yet."""
    rows = []
    for _, group in groupby((item for item in items if item.kind != CHOICE), key=lambda item: item.row):
        own = tuple(group)
        found = [replies.get(item.id) for item in own]
        errors = [
            reply.error if reply else _no_reply(item)
            for item, reply in zip(own, found, strict=True)
            if reply is None or reply.error
        ]
        texts = tuple(reply.reply if reply else "" for reply in found)
        state = "failed" if errors else "unjudged"
        rows.append(Described(own, model, texts, state=state, error=errors[0] if errors else "no judge was given"))
    return rows
