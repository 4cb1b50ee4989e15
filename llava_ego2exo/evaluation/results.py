"""The end of a run, and all of a rescoring: replies in order, read, judged, and reported."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.files import file_hash, locked, write_atomic
from ..common.jsonl import json_line, read_lines, record_of
from ..errors import Ego2ExoError
from .items import Described, Item, Outcome
from .judge.judge import open_judge
from .judge.settings import JudgeSettings
from .preparation import ITEMS, MANIFEST, Asked, Prepared, read_manifest
from .replies.parser import PARSERS
from .report.report import write_report
from .store import ORIGIN, Reply, described_of, finish_replies, outcomes_of, read_replies


@dataclass(frozen=True)
class Finished:
    """What came out.

    Args:
        outcomes: of multiple-choice items, models and modes in order.
        described: of rows of descriptions.
        metrics: what `metrics.json` holds.
    """

    outcomes: list[Outcome]
    described: list[Described]
    metrics: dict[str, Any]


def finish(
    folder: Path,
    prepared: Prepared,
    manifest: dict[str, Any],
    judge: JudgeSettings | None,
    compare_to: str | None = None,
) -> Finished:
    """Put the replies of a run in order, and report.

    Args:
        folder: of the results.
        prepared: the run.
        manifest: what `run.json` holds.
        judge: to be asked; None: answers that an earlier run got are used.
        compare_to: the model that others are compared with; None: the first.
    """
    replies = {(one.model.name, one.mode): _ordered(one) for one in prepared.asked}
    return report(folder, prepared.items, replies, manifest, judge, compare_to)


def _ordered(asked: Asked) -> dict[str, Reply]:
    """Item's id -> reply; on disk in order of the plan, behind them those of items that this run leaves out."""
    found = read_replies(asked.folder)
    ours = {id_: found[key] for id_, key in asked.plan.keys.items() if key in found}
    others = [reply for reply in found.values() if reply.id not in asked.plan.keys]
    finish_replies(asked.folder, [*ours.values(), *sorted(others, key=lambda reply: reply.id)])
    return ours


def rescore(out: str, parser: str | None, judge: JudgeSettings | None, compare_to: str | None = None) -> Finished:
    """Read the stored replies of a folder anew; no model, no video and no data file is needed.

    Args:
        out: the folder that `llava-ego2exo eval` wrote.
        parser: name of what reads replies; None: as before.
        judge: to be asked; None: answers that an earlier run got are used.
        compare_to: the model that others are compared with; None: as before.

    Raises:
        Ego2ExoError: the folder is none of ours, or damaged.
    """
    folder = Path(out)
    manifest = read_manifest(folder)
    parser = parser or manifest.get("parser")
    if parser not in PARSERS:
        raise Ego2ExoError(f"--parser {parser}", ", ".join(PARSERS), "mend this flag")
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
) -> Finished:  # fmt: skip
    """Read replies, judge what is to be judged, and write results, metrics and pages.

    Args:
        folder: of the results.
        items: all questions.
        replies: (model, mode) -> item's id -> reply.
        manifest: what the numbers depend on.
        judge: to be asked; None: answers that an earlier run got are used.
        compare_to: name of a model.
    """
    outcomes, described = [], []
    for (model, mode), own in replies.items():
        outcomes += outcomes_of(items, own, model, mode, manifest["parser"])
        described += described_of(items, own, model)
    outcomes, described, provenance = _judged(folder, outcomes, described, manifest, judge)
    write_atomic(folder / "results.jsonl", "".join(json_line(_result(one)) for one in (*outcomes, *described)))
    write_report(folder, outcomes, described, provenance, compare_to)
    measured = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return Finished(outcomes, described, measured)


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
    """One line of `results.jsonl`: what was read, beside what was asked."""
    record = dataclasses.asdict(one)
    if isinstance(one, Outcome):
        item = record.pop("item")
        shown = {name: item[name] for name in ("id", "category", "view", "video", "question", "choices", "answer")}
        return {**shown, **record, "right": one.right}
    items = record.pop("items")
    return {"row": items[0]["row"], "video": items[0]["video"], "questions": [i["question"] for i in items], **record}


_TYPES: dict[str, tuple[type, ...]] = {
    "choices": (dict,), "start_s": (int, float, type(None)), "end_s": (int, float, type(None)),
}  # fmt: skip


def _item(record: Any) -> Item:
    return record_of(Item, record, _TYPES)
