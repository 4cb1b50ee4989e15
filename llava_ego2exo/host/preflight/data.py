"""LLaVA's training JSON: every row is checked before any weight loads."""

from __future__ import annotations

import contextlib
import gc
import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...common.json_io import read_json, read_json_lines, read_text, set_max_mb
from ...common.processes import is_first
from ...config import PREFIX, Ego2ExoConfig
from ...errors import Ego2ExoError
from ..fixes.data import PLACEHOLDER, SYSTEM
from ..settings import Settings, data_files
from ..training.rows import VIDEO_PLACEHOLDER, host_row
from .files import FileIndex, folder_above

MAX_JSON_MB = f"{PREFIX}max_json_mb"
_FILE = "file"
_NAMED = 5  # faults of each kind
_ASKING = ("human", "user")  # the second in LLaVA-NeXT's chat templates alone
_FORM = (
    '{"id", "video" or "image", "conversations": [{"from": "human", "value": "<image>\\n..."}, '
    '{"from": "gpt", "value": "..."}]} with files under --video_folder and --image_folder'
)
Fault = tuple[str, str]  # its kind, by which faults are counted, and what is wrong in this row


@dataclass(frozen=True)
class RowRules:
    """What one host trains of a conversation by one template; the defaults suit llava-torch and Vicuna's.

    Args:
        roles: names that turns may be from, besides a first system turn.
        alternating: human and gpt have to take turns; else only the first turn has to be human.
        one_answer: one human turn with a placeholder and one gpt turn, no more.
        system: the template has a system prompt.
        image_lists: a row may have several images.
        frame_folder: words in the path of a video that may be a folder of frames.
        times: the time instruction is written into the first turn, and the placeholder with it.
    """

    roles: tuple[str, ...] = ("human", "gpt")
    alternating: bool = True
    one_answer: bool = False
    system: bool = True
    image_lists: bool = False
    frame_folder: str | None = None
    times: bool = False


def _has_video_placeholder(text: str) -> bool:
    """Before or after a query; text about HTML has `<video>` in its midst, or a closing tag too."""
    return (text.startswith(VIDEO_PLACEHOLDER) or text.endswith(f"\n{VIDEO_PLACEHOLDER}")) and "</video>" not in text


class RowCheck:
    """What is wrong with rows of a training file: form, turns, placeholders and files.

    Args:
        folders: maps `video_folder` and `image_folder`; None is the folder that the run is started in.
        flags: the plugin's, which say what gets tokens.
        rules: of the host and template.
    """

    def __init__(
        self, folders: Settings | Mapping[str, Any], flags: Ego2ExoConfig, rules: RowRules | None = None
    ) -> None:
        self.folders, self.rules, self.files = folders, rules or RowRules(), FileIndex()
        self.images = flags.visual_tokens or "image" in flags.modality_set
        self.missing_in: dict[str, str | None] = {}  # flags of folders that lack files; see :func:`.folder_above`
        self.notes: Counter[str] = Counter()  # what LLaVA leaves out of rows that can be trained on

    def faults(self, row: Any) -> list[Fault]:
        """Those of one row."""
        return self.read(row)[1]

    def read(self, row: Any) -> tuple[Any, list[Fault]]:
        """One row in LLaVA's own terms (:func:`.host_row`), and its faults."""
        if not isinstance(row, dict):
            return row, [("form", f"is a {type(row).__name__}, not an object")]
        turns = row.get("conversations")
        if not isinstance(turns, list) or not turns:
            return row, [("form", "has no conversations")]
        found = [fault for number, turn in enumerate(turns) for fault in self._turn(number, turn)]
        if not found:
            row = host_row(row)
            found = self._order([turn["from"] for turn in row["conversations"]])
            wrong_role = any(kind == "role" for kind, _ in found)  # its placeholder was not found for this reason
            found += [fault for fault in self._visual(row) if not (wrong_role and fault[0] == "placeholder")]
        return row, found

    def _turn(self, number: int, turn: Any) -> list[Fault]:
        """Faults that a turn has by itself."""
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            return [("form", f"has a turn {number} without `from` and `value`")]
        role, value, rules, found = turn["from"], turn["value"], self.rules, []
        if role == "system" and number == 0:
            if not rules.system:
                found.append(("role", "has a system turn, and the template of --version has no system prompt"))
        elif role not in rules.roles:
            first = ("human", "system") if rules.system else ("human",)
            known = " or ".join(rules.roles if number else first)
            found.append(("role", f"has a turn {number} from {role!r}, where LLaVA reads {known}"))
        if not isinstance(value, str):
            found.append(("value", f"has a {type(value).__name__} as value of turn {number}"))
        elif (not value or value.isspace()) and role != "system" and (rules.alternating or role != "human"):
            found.append(("value", f"has an empty value in turn {number}"))
        return found

    def _order(self, roles: list[str]) -> list[Fault]:
        if roles == ["human", "gpt"]:
            return []
        kind, rules = "order of turns", self.rules
        if rules.one_answer:
            return [(kind, "is not one human turn and one gpt turn, as the template of --version needs it")]
        if roles and roles[0] == "gpt":
            roles = roles[1:]
            self.notes["begin with a gpt turn, which LLaVA leaves out"] += 1
        if not {"gpt", "assistant"} & set(roles):
            return [(kind, "has no gpt turn that answers a human one")]
        if roles[0] != "human":
            kind = kind if roles[0] == "gpt" else "role"
            return [(kind, f"begins with a turn from {roles[0]!r}, where LLaVA reads human")]
        if rules.alternating:
            twice = next((role for role, last in zip(roles[1:], roles, strict=False) if role == last), None)
            if twice is not None:
                return [(kind, f"has two {twice} turns in a row")]
            if roles[-1] == "human":
                self.notes["end with a human turn, of which LLaVA trains nothing by this template"] += 1
        return []

    def _visual(self, row: dict[str, Any]) -> list[Fault]:
        """Faults of placeholders and files."""
        turns, kind = row["conversations"], "image" if "image" in row else "video" if "video" in row else None
        human = [turn["value"] for turn in turns if turn["from"] in _ASKING]
        count = "\n".join(human).count(PLACEHOLDER)
        if kind is None:
            if count or any(map(_has_video_placeholder, human)):
                name = PLACEHOLDER if count else VIDEO_PLACEHOLDER
                return [("placeholder", f"has a {name} placeholder but neither video nor image")]
            alone = "has neither video nor image, without which the template of --version writes no row"
            return [("form", alone)] if self.rules.one_answer else []
        if "video" in row and kind == "image":
            return [("form", "has both video and image, of which LLaVA reads one: leave the other key out")]
        found: list[Fault] = []
        if kind == "image" and not self.images:
            without = "--ego2exo_visual_tokens False, or --ego2exo_bottleneck"
            found.append(("image", f"is an image, which {without}, leaves without any token"))
        several = kind == "image" and self.rules.image_lists and isinstance(row["image"], list) and row["image"]
        files = row["image"] if several else [row[kind]]
        others = [turn["from"] for turn in turns if turn["from"] not in _ASKING and PLACEHOLDER in turn["value"]]
        others += ["system"] if PLACEHOLDER in row.get(SYSTEM, "") else []
        if others:
            found.append(("placeholder", f"has a {PLACEHOLDER} placeholder in a {others[0]} turn"))
        elif count != len(files):
            found.append(("placeholder", f"has {count} {PLACEHOLDER} placeholder(s) for {len(files)} {kind}(s)"))
        elif kind == "video" and self.rules.times and PLACEHOLDER not in turns[0]["value"]:
            late = "has its video after the first turn, where --add_time_instruction True puts it too"
            found.append(("placeholder", late))
        for file in files:
            found += self.file_faults(kind, file)
        return found

    def file_faults(self, name: str, file: Any) -> list[Fault]:
        """What is wrong with the file of the key `name`."""
        if not isinstance(file, str) or not file:
            given = repr(file) if file in ("", None) else f"a {type(file).__name__}"
            return [(_FILE, f"has {given} as {name}, where LLaVA reads one path")]
        flag = f"{name.removeprefix('ego_')}_folder"
        folder = self.folders[flag] or ""
        path = os.path.join(folder, file)
        found = self.files.kind(path)
        frames = self.rules.frame_folder
        if found == "file" or (found == "folder" and name == "video" and frames and frames in path):
            return []
        self.missing_in[flag] = self.missing_in.get(flag) or folder_above(folder, file)
        return [(_FILE, f"{name} {path} is {'not there' if found == 'nothing' else f'a {found}'}")]


def check_data(
    settings: Settings, flags: Ego2ExoConfig, extra: Any = None, rules: RowRules | None = None
) -> list[dict[str, Any]]:
    """Every row's form, turns, placeholders and files; what LLaVA leaves out of rows is printed.

    Args:
        settings: the run's.
        flags: the plugin's.
        extra: :class:`.SampleCheck`, for rows whose form is right.
        rules: of the host and the run's template.

    Returns:
        All rows that may be trained on, in LLaVA's own terms.

    Raises:
        Ego2ExoError: counts the faults of each kind, and names the first ones by file and index.
    """
    if settings[MAX_JSON_MB] is not None:
        set_max_mb(settings[MAX_JSON_MB], f"--{MAX_JSON_MB}")
    check, rows = RowCheck(settings, flags, rules), []
    faults, faulty, special = defaultdict[str, list[str]](list), 0, False
    with _no_collection():
        for file in data_files(settings):
            samples = read_samples(file.path)
            for index in file.kept(len(samples)):
                row, found = check.read(samples[index])
                if extra is not None and not found:
                    found = list(extra(row, check))
                    special |= bool(found)
                for kind, text in found:
                    faults[kind].append(f"{file.path}[{index}]: {text}")
                faulty += bool(found)
                rows.append(row)
    if faulty:
        listed = sorted(faults.items(), key=lambda item: -len(item[1]))
        remedies = [extra.remedy] if special else []
        remedies += [
            f"give the folder above: --{name} {above}" if above else f"check --{name} ({settings[name] or 'not given'})"
            for name, above in check.missing_in.items()
        ]
        raise Ego2ExoError(
            f"{sum(map(len, faults.values()))} fault(s) in {faulty} of {len(rows)} rows of the training data:\n"
            + "\n".join(f"{len(found)} x {kind}:{_some_lines(found)}" for kind, found in listed),
            ", and ".join([_FORM, *([extra.allowed] if special else [])]),
            "; ".join([*remedies, "fix or remove these rows"]),
        )
    if is_first():
        for note, count in check.notes.items():
            print(f"ego2exo: {count} of {len(rows)} rows {note}", flush=True)  # noqa: T201
    return rows


def _some_lines(faults: list[str]) -> str:
    more = [f"and {len(faults) - _NAMED} more"] if len(faults) > _NAMED else []
    return "".join(f"\n  {text}" for text in faults[:_NAMED] + more)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of rows are no garbage, and the collector would visit all of them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_samples(file: str) -> list[Any]:
    """The samples of one JSON or JSONL file.

    Raises:
        Ego2ExoError: it is no JSON, or no list, or empty; LLaVA cannot read a JSONL file with an empty line.
    """
    what = "a JSON list of samples"
    # LLaVA itself refuses a byte order mark.
    if file.endswith(".jsonl"):
        samples: Any = read_json_lines(file, what, "utf-8")
        lines = read_text(file, what, "utf-8").removesuffix("\n").split("\n")
        if len(samples) < len(lines):
            number = next(number for number, line in enumerate(lines, 1) if not line.strip())
            raise Ego2ExoError(f"{file} line {number} is empty", "one object a line", "remove this line")
    else:
        try:
            samples = read_json(file, what, "utf-8")
        except Ego2ExoError as error:
            if not str(error.__cause__).startswith("Extra data: line 2 column 1"):
                raise
            remedy = (
                "if these are JSON Lines, name the file .jsonl and give it in a YAML list, which LLaVA-NeXT reads, or "
                f"make it one list: jq -s . {shlex.quote(file)}"
            )
            raise Ego2ExoError(error.given, what, remedy) from error
    if not isinstance(samples, list) or not samples:
        given = f"{file} holds {type(samples).__name__} {str(samples)[:40]!r}"
        raise Ego2ExoError(given, "a JSON list of samples, one or more", "put the samples in [...], or check the path")
    return samples
