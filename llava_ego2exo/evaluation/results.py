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
from .preparation import ITEMS, EvalPreparation, ModelRun
from .replies.parser import PARSERS
from .report.report import write_evaluation_report


@dataclass(frozen=True)
class EvalResults:
    """What a run or a rescoring found.

    Args:
        outcomes: of multiple-choice items, models and modes in order.
        described: of rows of descriptions.
        metrics: what `metrics.json` holds.
    """

    outcomes: list[Outcome]
    described: list[Described]
    metrics: dict[str, Any]


def finish(
    folder: Path, prepared: EvalPreparation, manifest: dict[str, Any], judge: JudgeSettings | None,
    compare_to: str | None = None,
) -> EvalResults:  # fmt: skip
    """Put the replies of a run in order, and report; arguments as of :func:`report`."""
    replies = {(one.model.name, one.mode): _ordered(one) for one in prepared.runs}
    return report(folder, prepared.items, replies, manifest, judge, compare_to)


def _ordered(run: ModelRun) -> dict[str, Reply]:
    """Item's id -> reply; on disk in order of the plan, behind them those of items that this run leaves out."""
    found = read_replies(run.folder)
    own = {id_: found[key] for id_, key in run.plan.keys.items() if key in found}
    others = [reply for reply in found.values() if reply.id not in run.plan.keys]
    reply_store(run.folder).finish([*own.values(), *sorted(others, key=lambda reply: reply.id)])
    return own


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
        items = list(read_lines(folder / ITEMS, _item, torn=False, origin=ORIGIN))
        manifest = {**manifest, "parser": parser}
        if judge is not None:
            manifest["judge settings"] = judge.to_dict()
        write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        replies = {
            (model["name"], mode): {reply.id: reply for reply in read_replies(folder / model["name"] / mode).values()}
            for model in manifest["models"]
            for mode in manifest["modes"]
        }
        return report(folder, items, replies, manifest, judge, compare_to or manifest.get("compared with"))


def report(
    folder: Path, items: Sequence[Item], replies: Mapping[tuple[str, str], Mapping[str, Reply]],
    manifest: dict[str, Any], judge: JudgeSettings | None, compare_to: str | None = None,
) -> EvalResults:  # fmt: skip
    """Parse replies, judge what is to be judged, and write results, metrics and pages.

    Args:
        folder: of the results.
        items: all questions.
        replies: (model, mode) -> item's id -> reply.
        manifest: what the numbers depend on.
        judge: to be asked; None: stored scores are used.
        compare_to: name of a model.
    """
    outcomes, described = [], []
    for (model, mode), own in replies.items():
        outcomes += choice_outcomes(items, own, model, mode, manifest["parser"])
        described += descriptions(items, own, model)
    outcomes, described, provenance = _judged(folder, outcomes, described, manifest, judge)
    write_atomic(folder / "results.jsonl", "".join(json_line(_result(one)) for one in (*outcomes, *described)))
    write_evaluation_report(folder, outcomes, described, provenance, compare_to)
    measured = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return EvalResults(outcomes, described, measured)


def _judged(
    folder: Path, outcomes: list[Outcome], described: list[Described], manifest: dict[str, Any],
    settings: JudgeSettings | None,
) -> tuple[list[Outcome], list[Described], dict[str, Any]]:  # fmt: skip
    judge = open_judge(settings, folder, manifest["judge settings"])
    if judge is None:
        return outcomes, described, manifest
    with judge:
        described = judge.score(described)
        outcomes = judge.read_replies(outcomes) if judge.settings.read_unparsed else outcomes
        return outcomes, described, {**manifest, "judge": judge.provenance()}


def _result(one: Outcome | Described) -> dict[str, Any]:
    """One line of `results.jsonl`: what was parsed, beside what was asked."""
    record = dataclasses.asdict(one)
    if isinstance(one, Outcome):
        item = record.pop("item")
        shown = {name: item[name] for name in ("id", "category", "view", "video", "question", "choices", "answer")}
        return {**shown, **record, "right": one.right}
    items = record.pop("items")
    return {"row": items[0]["row"], "video": items[0]["video"], "questions": [i["question"] for i in items], **record}


def choice_outcomes(
    items: Sequence[Item], replies: Mapping[str, Reply], model: str, mode: str, parser: str
) -> list[Outcome]:  # fmt: skip
    """One outcome for each multiple-choice item.

    Args:
        items: all of the run.
        replies: item's id -> reply.
        model: name of the model.
        mode: in which it was asked.
        parser: name of what parses its replies.
    """
    return [_outcome(item, replies.get(item.id), model, mode, parser) for item in items if item.kind == CHOICE]


def _outcome(item: Item, reply: Reply | None, model: str, mode: str, parser: str) -> Outcome:
    if reply is None or reply.error:
        return Outcome(item, model, mode, FAILED, error=reply.error if reply else _no_reply(item))
    if mode == LIKELIHOOD:
        if reply.scores.keys() != item.choices.keys():
            return Outcome(item, model, mode, FAILED, error="the stored scores are not those of its options")
        # The first of equal ones, as `max` has it.
        picked = max(reply.scores, key=reply.scores.__getitem__)
        return Outcome(item, model, mode, PARSED, picked, scores=reply.scores)
    picked = PARSERS[parser](reply.reply, item.choices)
    return Outcome(item, model, mode, PARSED if picked else UNPARSED, picked, reply.reply, flags=reply.flags)


def _no_reply(item: Item) -> str:
    if item.path:
        return "not asked yet: the run was stopped; the same command resumes"
    return "the video is not there, or may not be read"


def descriptions(items: Sequence[Item], replies: Mapping[str, Reply], model: str) -> list[Described]:
    """One for each row of a description benchmark, not judged yet.

    Args:
        items: all of the run; those of a row stand together.
        replies: item's id -> reply.
        model: name of the model.
    """
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


_TYPES: dict[str, tuple[type, ...]] = {
    "choices": (dict,), "start_s": (int, float, type(None)), "end_s": (int, float, type(None)),
}  # fmt: skip


def _item(record: Any) -> Item:
    return record_of(Item, record, _TYPES)
