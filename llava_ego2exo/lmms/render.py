"""Tasks for lmms-eval out of a benchmark's items: data files and YAML files with absolute paths."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from ..common.files import locked, write_atomic
from ..common.jsonl import json_line
from ..common.processes import map_threads
from ..common.text import shorten_list
from ..distill.pairs.cut import Cutters
from ..distill.pairs.cutter import Cut
from ..errors import Ego2ExoError
from ..evaluation.items import CHOICE, DESCRIPTION, Item
from ..evaluation.plan import VERSION
from .tasks import METRICS, rows_of

# lmms-eval parses every .yaml below the folder, and names of its own tasks win: so all names here begin alike.
PREFIX = "ego2exo"
ALL, ADLX = PREFIX, f"{PREFIX}_adlx"
_TEMPLATES = {CHOICE: "multiple_choice.yaml.j2", DESCRIPTION: "description.yaml.j2"}
_NEW_TOKENS = {CHOICE: 64, DESCRIPTION: 256}
_MERGED = "pretrained=CKPT,model_name=llava_qwen,conv_template=qwen_1_5,max_frames_num=32"


def render_tasks(out: str | Path, items: Sequence[Item], benchmark: str) -> str:
    """Write one task a view, and the groups of all tasks in the folder; what other benchmarks wrote there stays.

    Args:
        out: folder of the tasks; made if it is not there.
        items: of the benchmark, with `path` set.
        benchmark: its name.

    Returns:
        What was written and the commands that use it, for the terminal.

    Raises:
        Ego2ExoError: there are no items, a video is missing, lmms-eval cannot run this benchmark, or the folder cannot
            be written.
    """
    _check(items, benchmark)
    folder = Path(os.path.abspath(out))
    with locked(folder):
        items = cut_parts([replace(item, path=os.path.abspath(item.path)) for item in items], folder / "clips")
        tasks: dict[str, list[Item]] = {}
        for item in items:
            tasks.setdefault(task_name(benchmark, item.view), []).append(item)
        for name, own in tasks.items():
            _write_task(folder, name, own)
        groups = _write_groups(folder)
    return _summary(folder, {name: len(own) for name, own in tasks.items()}, groups)


def task_name(benchmark: str, view: str = "") -> str:
    """What lmms-eval calls a benchmark on one view."""
    plain = "perception" if benchmark == "ego-in-exo" else benchmark.replace("-", "_")
    return f"{PREFIX}_{plain}" + (f"_{view}" if view else "")


def template_folder() -> Path:
    """The templates as installed, or in the repository when the package runs from there without an installation."""
    with contextlib.suppress(ModuleNotFoundError):
        installed = Path(str(resources.files("llava_ego2exo.lmms_tasks")))
        if (installed / _TEMPLATES[CHOICE]).is_file():
            return installed
    return Path(__file__).resolve().parents[2] / "eval"


def _check(items: Sequence[Item], benchmark: str) -> None:
    if not items:
        raise Ego2ExoError(f"no question of {benchmark} to render", "one or more", "correct --data or --categories")
    if any(item.part.isdigit() for item in items):
        raise Ego2ExoError(
            f"--render-lmms with {benchmark}, whose clips are described one by one and then merged by a judge",
            "benchmarks that ask each question once",
            f"run `llava-ego2exo eval --benchmark {benchmark} --judge-url ...`",
        )
    missing = [f"{item.path or item.video} ({item.source})" for item in items if not os.path.isfile(item.path)]
    if missing:
        raise Ego2ExoError(
            f"{len(missing)} question(s) about videos that are not there: {shorten_list(missing)}",
            "a video for every question: lmms-eval would stop at the first one without",
            "correct --videos",
        )


def _write_task(folder: Path, name: str, items: Sequence[Item]) -> None:
    rows, first = rows_of(items), items[0]
    data = write_atomic(folder / "data" / f"{name}.jsonl", "".join(map(json_line, rows)))
    metrics = [*METRICS[first.kind], *(f"{METRICS[first.kind][0]}_{group}" for group in rows[0]["groups"])]
    text = _rendered(
        _TEMPLATES[first.kind], name=name, data=str(data), metrics=metrics, new_tokens=_NEW_TOKENS[first.kind],
        benchmark=first.benchmark, prompt=VERSION,
    )  # fmt: skip
    write_atomic(folder / f"{name}.yaml", text)


def _write_groups(folder: Path) -> dict[str, list[str]]:
    """The groups, of what is in the folder; name -> tasks."""
    tasks = sorted(file.stem for file in folder.glob(f"{PREFIX}_*.yaml") if file.stem not in (ALL, ADLX))
    choice = [name for name in tasks if name.startswith(f"{ADLX}_") and not name.endswith("_desc")]
    # A task may be in one group of a run, so the whole holds the part as a group.
    rest = [name for name in tasks if name not in choice]
    groups = {ALL: [ADLX, *rest] if choice else rest, **({ADLX: choice} if choice else {})}
    for name, own in groups.items():
        # Tasks of both kinds have no metric in common.
        metrics = METRICS[CHOICE] if name == ADLX else ()
        write_atomic(folder / f"{name}.yaml", _rendered("group.yaml.j2", name=name, tasks=own, metrics=metrics))
    return groups


def _rendered(template: str, **values: Any) -> str:
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_folder()), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    return made.get_template(template).render(values)


def _summary(folder: Path, counts: Mapping[str, int], groups: Mapping[str, Sequence[str]]) -> str:
    end = f"--include_path {shlex.quote(str(folder))} --tasks {','.join(counts)} --batch_size 1 --log_samples \\\n"
    end += "    --output_path logs --verbosity DEBUG"
    lines = [f"{count} question(s): {folder / name}.yaml" for name, count in counts.items()]
    lines += [f"group {name}: {', '.join(tasks)}" for name, tasks in groups.items()]
    lines += ["", "Any checkpoint, also LoRA (model_base=BASE) and 4 bits (load_4bit=True), by this package's entry:"]
    lines += [f"python -m lmms_eval --model llava_ego2exo --model_args pretrained=CKPT \\\n    {end}"]
    lines += ["", "A merged Qwen checkpoint by lmms-eval's own wrapper, see docs/lmms-eval.md:"]
    lines += [f"python -m lmms_eval --model llava_onevision --model_args {_MERGED} \\\n    {end}"]
    return "\n".join(lines)


def cut_parts(items: Sequence[Item], folder: Path) -> list[Item]:
    """The same items, each with its part of a video as its file, since lmms-eval knows no times.

    Parts that are there already are kept.

    Raises:
        Ego2ExoError: a part cannot be cut, or PyAV is not installed.
    """
    cuts: dict[str, Cut] = {}
    found = []
    for item in items:
        if item.start_s or item.end_s is not None:
            # By the video's whole path: videos of one name may lie in several folders.
            part = hashlib.sha256(repr((item.path, item.start_s, item.end_s)).encode()).hexdigest()[:12]
            target = str(folder / f"{Path(item.path).stem[:80]}-{part}.mp4")
            cuts[target] = Cut(item.path, target, item.start_s or 0.0, item.end_s)
            item = replace(item, path=target, start_s=None, end_s=None)
        found.append(item)
    if cuts:
        folder.mkdir(parents=True, exist_ok=True)
    with Cutters() as cutters:
        states = map_threads(cutters.make, list(cuts.values()), min(os.cpu_count() or 1, 8), "cutting", "cut")
    faults = [f"{target}: {state}" for target, state in zip(cuts, states, strict=True) if state not in ("made", "kept")]
    if faults:
        raise Ego2ExoError(
            f"{len(faults)} of {len(cuts)} part(s) of videos cannot be cut out: {shorten_list(faults)}",
            "parts that lie inside videos that decode",
            "correct these videos or rows and run the same command again, which keeps what is cut",
        )
    return found
