"""The whole method on a small paired world: ``python -m llava_ego2exo.demo [--full] [--seeds N] [--out DIR]``.

Clips of one scene are drawn for two cameras. A tiny LLaVA that understands ego clips answers queries about them, and
students that see the exo clips alone learn from its answers by LLaVA's own training. All are then asked multiple-choice
questions about held-out exo clips.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..common.files import write_atomic
from ..errors import Ego2ExoError, require_package
from .base import Base, cache_folder, get_base
from .exam import attention, examples
from .pipeline import SeedRun, run_seed, shell_text
from .report import write_report
from .results import (
    HELD_OUT,
    RECEIVERS,
    TRAINED,
    WRITTEN,
    Results,
    ablation_table,
    attention_table,
    difference_table,
    probe_table,
    table,
)
from .variants import DEFAULT, FULL, QUICK, STUDENTS, DemoPlan, added_variant
from .world import ASK, DESCRIBE, HANDS, OBJECTS, ORDINALS, QUESTION_TYPES, REGIONS, chance


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when it came to its end, whatever it measured."""
    args = parse(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        plan = plan_of(args)
        if args.out is None:
            with tempfile.TemporaryDirectory(prefix="ego2exo_demo_") as folder:
                return run(Path(folder), plan, args)
        out = Path(args.out).absolute()
        sizes, file = json.dumps(plan.sizes()), out / "sizes.json"
        same = file.is_file() and file.read_text() == sizes
        if out.exists() and not same and (not out.is_dir() or any(out.iterdir())):
            raise Ego2ExoError(
                f"--out {args.out} exists and holds something else", "a new folder, or that of a run of the same sizes",
                "choose another",
            )  # fmt: skip
        write_atomic(file, sizes)
        return run(out, plan, args)
    except Ego2ExoError as error:
        print(f"llava_ego2exo.demo: error: {error}", file=sys.stderr)  # noqa: T201
        return 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The demo's own flags."""
    parser = argparse.ArgumentParser(prog="python -m llava_ego2exo.demo", description=__doc__.split("\n\n")[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="every variant")
    size.add_argument("--quick", action="store_true", help="fewer clips, steps and variants")
    few = f"these variants alone, of {', '.join(STUDENTS)}"
    parser.add_argument("--variants", nargs="+", choices=tuple(STUDENTS), metavar="NAME", help=few)
    add = "another variant beside the others: what it adds to the command of `distill`; may be repeated"
    parser.add_argument("--add", action="append", default=[], metavar="'NAME: --flag value ...'", help=add)
    steps = "steps of every student's training (default: 650 with --full, 170 with --quick, else 450)"
    parser.add_argument("--steps", type=int, metavar="N", help=steps)
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="do all of it N times (default: 1)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="the first one (default: 0)")
    parser.add_argument("--out", metavar="DIR", help="a folder that keeps everything, and continues where it stopped")
    parser.add_argument("--rebuild", action="store_true", help="train the base anew, whatever is kept or shipped")
    parser.add_argument("--cache", metavar="DIR", help=f"where base models are kept (default: {cache_folder()})")
    args = parser.parse_args(argv)
    if args.seeds < 1 or args.first_seed < 0 or (args.steps is not None and args.steps < 1):
        parser.error("--seeds and --steps are whole numbers from 1, --first-seed from 0")
    return args


def plan_of(args: argparse.Namespace) -> DemoPlan:
    """The sizes that the flags ask for."""
    plan = FULL if args.full else QUICK if args.quick else DEFAULT
    added = tuple(added_variant(text) for text in args.add)
    variants = tuple(args.variants or plan.variants) + tuple(name for name, _ in added)
    return dataclasses.replace(plan, variants=variants, added=added, steps=args.steps or plan.steps)


def run(out: Path, plan: DemoPlan, args: argparse.Namespace) -> int:
    """Every seed in turn, then the report, all in the folder `out`."""
    require_package("matplotlib", "report")
    cache, seconds = Path(args.cache or cache_folder()).absolute(), {}
    runs, started = [], time.monotonic()
    base = get_base(plan, cache, say, args.rebuild)
    seconds["base"] = time.monotonic() - started
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        say(f"\nseed {seed}")
        started = time.monotonic()
        runs.append(run_seed(plan, seed, base, out / f"seed{seed}", say))
        seconds[f"seed {seed}: pairs, teacher, students, questions"] = time.monotonic() - started
    results = gather(plan, runs, seconds)
    for command in results.commands:
        print(f"\n{command}")  # noqa: T201
    write_report(results, out)
    _ready(out, base)
    kept = f"report: {out / 'report.html'}" if args.out else "--out DIR keeps the report and everything else"
    tables = (table, probe_table, difference_table, ablation_table, attention_table)
    for text in filter(None, (one(results) for one in tables)):
        print(f"\n{text}")  # noqa: T201
    print(f"\n{kept}")  # noqa: T201
    return 0


def _ready(out: Path, base: Base) -> None:
    """What `ask`, `serve` and `watch` need beside a student: its base, and questions."""
    link = out / "base"
    link.unlink(missing_ok=True)
    link.symlink_to(base.model)
    asked: list[dict[str, Any]] = [
        {"name": f"{ordinal}-{kind}", "question": ASK[kind].format(ordinal), "options": options}
        for ordinal in ORDINALS for kind, options in (("hand", HANDS), ("object", OBJECTS), ("region", REGIONS))
    ]  # fmt: skip
    asked.append({"name": "what", "question": DESCRIBE})
    write_atomic(out / "questions.json", json.dumps(asked, indent=1))


def gather(plan: DemoPlan, runs: Sequence[SeedRun], seconds: dict[str, float]) -> Results:
    """The results of all seeds; examples and attention are the first seed's."""
    first = runs[0]
    describes = "distill" if "distill" in plan.variants else plan.variants[-1]

    def percent(name: str, split: str, ablation: str = "none") -> dict[str, list[float]]:
        found = [run.exams[name]["splits"][split][ablation]["percent"] for run in runs]
        return {kind: [one[kind] for one in found] for kind in QUESTION_TYPES}

    with_tokens = [name for name, exam in first.exams.items() if exam["attention"]]
    shown = [name for name in ("tokens-16", *with_tokens) if name in with_tokens]
    return Results(
        variants={name: percent(name, HELD_OUT) for name in first.exams},
        trained={name: percent(name, TRAINED) for name in first.exams},
        written={name: {kind: [run.exams[name]["written"][kind] for run in runs] for kind in WRITTEN}
                 for name in first.exams},
        chance=chance(),
        visual_tokens={name: exam["visual_tokens"] for name, exam in first.exams.items()},
        answer_seconds={name: [run.exams[name]["seconds"] for run in runs] for name in first.exams},
        ablations={name: {one: percent(name, HELD_OUT, one) for one in first.exams[name]["splits"][HELD_OUT]}
                   for name in with_tokens},
        answer_attention={name: {part: [run.exams[name]["attention"][part] for run in runs] for part in RECEIVERS}
                          for name in with_tokens},
        probe={view: {name: [run.probe[view][name] for run in runs] for name in found}
               for view, found in first.probe.items()},
        curves={name: [run.curves[name] for run in runs] for name in plan.variants},
        examples=examples(first.tests[HELD_OUT], first.exams, describes),
        attention=[clip for name in shown[:1]
                   for clip in attention(first.tests[HELD_OUT], first.base, first.student(name))],
        settings={**dataclasses.asdict(plan), "seeds": len(runs), "llava": first.base.kind, "version": __version__},
        commands=[shell_text(command) for command in first.commands],
        seconds=seconds,
    )  # fmt: skip


_STARTED = time.monotonic()


def say(text: str) -> None:
    """One line with the time since the start."""
    minutes, seconds = divmod(int(time.monotonic() - _STARTED), 60)
    print(f"[{minutes:02d}:{seconds:02d}] {text.strip()}" if text.strip() else "", flush=True)  # noqa: T201


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C does: the running commands end too
    sys.exit(main())
