"""`llava-ego2exo eval`: ask LLaVA models the questions of a benchmark, and report how right they are."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from ..errors import Ego2ExoError, refuse
from ..video.limits import VideoLimits
from .flags import add_max_json, add_model_flags, add_reading_flags, add_served_flags, job_values, print_report


def add(subparsers: argparse._SubParsersAction) -> None:
    """``eval --model CKPT --benchmark NAME --data FILE --videos DIR --out DIR [...]``"""
    text = "ask LLaVA models the questions of a benchmark"
    many = "Several GPUs: torchrun --nproc_per_node 8 -m llava_ego2exo eval ..."
    parser = subparsers.add_parser("eval", help=text, epilog=f"{many} The same command resumes a stopped run.")
    group = parser.add_argument_group("benchmark")
    group.add_argument("--benchmark", metavar="NAME", help="ego-in-exo, adlx-charades-ar, ...; see docs/benchmarks.md")
    group.add_argument("--data", metavar="FILE_OR_DIR", help="its file, or a folder that holds it")
    group.add_argument("--videos", metavar="DIR", help="folder of its videos (default: the one beside its file)")
    group.add_argument("--out", metavar="DIR", help="where replies, metrics.json and report.html go")
    view = "which camera, for benchmarks with two (default: exo)"
    group.add_argument("--view", choices=("exo", "ego", "both"), default="exo", help=view)
    group.add_argument("--categories", metavar="NAME", nargs="+", default=[], help="ask about these alone")
    group.add_argument("--limit", type=int, default=0, metavar="N", help="ask the first N questions alone")
    clips = "length of the clips in which adlx-tsu-desc has its videos described (default: 1)"
    group.add_argument("--clip-seconds", type=float, default=1.0, metavar="S", help=clips)
    bad = "malformed rows of the data to skip at most; they are listed (default: 0)"
    group.add_argument("--max-bad-rows", type=int, default=0, metavar="N", help=bad)
    add_max_json(group)
    check = "read and check data (and videos, where given) without a model, and print what is there"
    group.add_argument("--check", action="store_true", help=check)
    probe = "with --check: decode every video too"
    group.add_argument("--probe", action="store_true", help=probe)
    group.add_argument("--rescore", metavar="DIR", help="read the replies stored in DIR anew; nothing is asked")
    lmms = "write tasks for lmms-eval into DIR instead of asking"
    group.add_argument("--render-lmms", metavar="DIR", help=lmms)
    group = parser.add_argument_group("models")
    model = "a LLaVA checkpoint or openai:URL#NAME, as CKPT or NAME=CKPT; more are compared with the first"
    group.add_argument("--model", metavar="CKPT", action="append", default=[], help=model)
    base = "what a LoRA or projector folder was trained from: BASE for all of them, or NAME=BASE; may be repeated"
    group.add_argument("--model-base", metavar="BASE", action="append", default=[], help=base)
    add_model_flags(group)
    add_reading_flags(group)
    add_served_flags(group)
    group = parser.add_argument_group("replies")
    mode = "generate: a greedy reply, parsed; likelihood: the option whose letter is likeliest (default: generate)"
    group.add_argument("--mode", metavar="MODE", nargs="+", default=["generate"], help=mode)
    longest = "most tokens of a reply (default: 64 for multiple choice, 256 for descriptions)"
    group.add_argument("--max-new-tokens", type=int, metavar="N", help=longest)
    how = "strict, or viscop for comparing with published numbers (default: strict; with --rescore as before)"
    group.add_argument("--parser", metavar="NAME", help=how)
    group.add_argument("--compare-to", metavar="NAME", help="the model that others are compared with")
    group = parser.add_argument_group("judge", "scores descriptions 0 to 5; any OpenAI-compatible endpoint")
    group.add_argument("--judge-url", metavar="URL", help="for example http://localhost:11434/v1")
    group.add_argument("--judge-model", metavar="NAME", help="the judge's name there")
    key = "environment variable that holds its key (default: OPENAI_API_KEY)"
    group.add_argument("--judge-key-env", metavar="VARIABLE", default="OPENAI_API_KEY", help=key)
    group.add_argument("--judge-workers", type=int, default=4, metavar="N", help="requests at once (default: 4)")
    group.add_argument("--judge-timeout", type=float, metavar="SECONDS", help="of silence in a call (default: 60)")
    group.add_argument("--judge-retries", type=int, metavar="N", help="of a call that failed (default: 4)")
    longest = "most tokens of an answer; a judge that thinks before it answers needs more (default: 1024)"
    group.add_argument("--judge-max-tokens", type=int, metavar="N", help=longest)
    unparsed = "let the judge read replies that the parser cannot"
    group.add_argument("--judge-unparsed", action="store_true", help=unparsed)
    group = parser.add_argument_group("run")
    size = "clips that go through the model together, each with all its questions (default: 1)"
    group.add_argument("--batch-size", type=int, default=1, metavar="CLIPS", help=size)
    group.add_argument("--workers", type=int, default=2, metavar="N", help="threads that read clips (default: 2)")
    failures = "questions without a reply before the command counts as failed (default: 0)"
    group.add_argument("--max-failures", type=int, default=0, metavar="N", help=failures)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    ways = {"check": _check, "rescore": _rescore, "render_lmms": _render}
    given = [name for name in ways if getattr(args, name)]
    if len(given) > 1:
        raise Ego2ExoError(" and ".join(f"--{name.replace('_', '-')}" for name in given), "one of them", "choose")
    refuse(
        (args.probe and not args.check, "--probe without --check", "both", "add --check"),
        (args.limit < 0, f"--limit {args.limit}", "0 or more", ""),
    )
    run = ways[given[0]] if given else _ask
    return print_report(lambda: run(args))


def _require(args: argparse.Namespace, *names: str) -> None:
    missing = [f"--{name}" for name in names if not getattr(args, name)]
    if missing:
        needed = ", ".join(f"--{name}" for name in names)
        raise Ego2ExoError(f"{', '.join(missing)} not given", needed, "llava-ego2exo eval --help")


def _judge(args: argparse.Namespace) -> Any:
    from ..evaluation.judge.settings import judge_settings

    return judge_settings(
        args.judge_url, args.judge_model, args.judge_unparsed, key_env=args.judge_key_env, workers=args.judge_workers,
        timeout_s=args.judge_timeout, retries=args.judge_retries, max_tokens=args.judge_max_tokens,
    )  # fmt: skip


def _views(args: argparse.Namespace) -> tuple[str, ...]:
    return ("exo", "ego") if args.view == "both" else (args.view,)


def _check(args: argparse.Namespace) -> tuple[str, int]:
    from ..evaluation.benchmarks.registry import video_folder, video_folders
    from ..evaluation.check import check

    _require(args, "benchmark", "data")
    beside = not args.videos and video_folders(args.benchmark, args.data)
    videos = video_folder(args.benchmark, args.data) if beside else args.videos
    checked = check(
        args.benchmark, args.data, videos, _views(args), categories=args.categories or None,
        limit=args.limit, max_bad=args.max_bad_rows, probe=args.probe, workers=args.workers,
        limits=VideoLimits.from_object(args),
    )  # fmt: skip
    return str(checked), 1 if checked.faults else 0


def _render(args: argparse.Namespace) -> tuple[str, int]:
    from ..common.text import shorten_list
    from ..evaluation.benchmarks.registry import read_benchmark, video_folder
    from ..evaluation.videos import find_videos
    from ..lmms.render import render_tasks

    _require(args, "benchmark", "data")
    videos = args.videos or video_folder(args.benchmark, args.data)
    read = read_benchmark(args.benchmark, args.data, _views(args), args.categories or None, args.max_bad_rows)
    items = find_videos(read.items, videos, read.precut).items[: args.limit or None]
    missing = [f"{item.video} ({item.source})" for item in items if not item.path]
    if missing:
        raise Ego2ExoError(
            f"{len(missing)} question(s) about videos that are not in {videos}: {shorten_list(missing)}",
            "every video in the folder: lmms-eval would answer blind",
            "pass the folder that holds them as --videos",
        )
    return render_tasks(args.render_lmms, items, args.benchmark), 0


def _rescore(args: argparse.Namespace) -> tuple[str, int]:
    from ..evaluation.results import rescore

    return _report(rescore(args.rescore, args.parser, _judge(args), args.compare_to).metrics, args.rescore, args), 0


def _ask(args: argparse.Namespace) -> tuple[str, int]:
    from ..evaluation.job import EvalJob, models_of
    from ..evaluation.run import evaluate

    _require(args, "model", "benchmark", "data", "out")
    others = {
        "models": models_of(args.model, args.model_base), "modes": tuple(dict.fromkeys(args.mode)),
        "categories": tuple(args.categories), "parser": args.parser or "strict", "judge": _judge(args),
        "videos": args.videos or "",
    }  # fmt: skip
    return _report(evaluate(EvalJob(**{**job_values(args, EvalJob), **others})), args.out, args), 0


def _report(measured: dict[str, Any], folder: str, args: argparse.Namespace) -> str:
    from ..evaluation.report.tables import table_text

    text = [table_text(measured)]
    missing = [row["missing"] for row in measured["descriptions"] if row["category"] == "all" and row["missing"]]
    if missing:
        later = f"no judge was given; eval --rescore {shlex.quote(folder)} --judge-url URL --judge-model NAME asks one"
        why = "see results.jsonl; the same command asks again" if args.judge_url else later
        text.append(f"scores of up to {max(missing)} row(s) are missing: {why}")
    return "\n\n".join([*text, f"{folder}/report.html"])
