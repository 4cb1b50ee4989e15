"""`llava-ego2exo ask`: questions about one video."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Ego2ExoError, require_package
from ..video.limits import VideoLimits
from .flags import add_model_flags, add_video_limits

if TYPE_CHECKING:
    from ..host.inference.ask import VideoModel
    from ..video import Clip

# Flags that the errors of `teach` and `eval` name -> what they are called here.
_NAMES = {"model": "MODEL", "model-base": "--base"}


def add(subparsers: argparse._SubParsersAction) -> None:
    """``ask MODEL VIDEO QUESTION [QUESTION ...] [...]``"""
    parser = subparsers.add_parser("ask", help="ask a model about a video")
    parser.add_argument("model", metavar="MODEL", help="a LLaVA checkpoint")
    parser.add_argument("video", metavar="VIDEO", help="a video file")
    parser.add_argument("questions", metavar="QUESTION", nargs="+", help="the video is encoded once for all of them")
    base = "the model that MODEL was trained from, where it is a LoRA or projector folder"
    parser.add_argument("--base", metavar="BASE", help=base)
    group = parser.add_argument_group("answers")
    options = "possible answers: print the probability of each among them, in the place of a text"
    group.add_argument("--options", nargs="+", metavar="TEXT", help=options)
    longest = "most tokens of an answer (default: 256)"
    group.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help=longest)
    group.add_argument("--json", action="store_true", help="print JSON")
    attention = "draw where the ego tokens look, frame by frame, into this PNG"
    group.add_argument("--attention", metavar="FILE", help=attention)
    group = parser.add_argument_group("video and model")
    group.add_argument("--start", type=float, metavar="S", help="where to begin, in seconds (default: at the start)")
    group.add_argument("--end", type=float, metavar="S", help="where to end, in seconds (default: at the end)")
    add_model_flags(group)
    add_video_limits(group)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    with contextlib.redirect_stdout(sys.stderr):  # LLaVA prints
        found = _ask(args)
    print(json.dumps(found, indent=1) if args.json else _text(found))
    return 0


def _ask(args: argparse.Namespace) -> dict[str, Any]:
    from ..host.inference.ask import check_choices, check_questions, open_video, renamed_flags
    from ..host.inference.settings import InferenceOptions

    check_questions(args.questions)
    if args.options is not None:
        check_choices(args.options)
    if args.attention is not None:
        _check_picture(Path(args.attention), args.model)
    given = {one.name: getattr(args, one.name) for one in fields(InferenceOptions) if hasattr(args, one.name)}
    where = (args.video, args.start, args.end, VideoLimits.from_object(args))
    with renamed_flags(_NAMES):
        model, clip = open_video(args.model, args.base, where, InferenceOptions(**given), args.max_new_tokens)
        prepared = model.prepare(clip)
        if args.options is None:
            answers = [
                {"answer": one.text, "ended": one.ended, "tokens": len(one.tokens)}
                for one in model.answers(prepared, args.questions)
            ]
        else:
            shares = model.probabilities(prepared, [(text, args.options) for text in args.questions])
            answers = [{"answer": max(own, key=own.__getitem__), "probabilities": own} for own in shares]
        if args.attention is not None:
            _draw(Path(args.attention), model, clip, prepared.pixels)
    found = [{"question": text, **answer} for text, answer in zip(args.questions, answers, strict=True)]
    return {"video": args.video, "frames": len(clip.frames), "seconds": clip.duration, "answers": found}


def _text(found: dict[str, Any]) -> str:
    answers = found["answers"]
    lines = []
    for one in answers:
        lines += [one["question"]] if len(answers) > 1 else []
        shares = one.get("probabilities", {})
        ordered = sorted(shares.items(), key=lambda pair: -pair[1])
        lines += [f"{share:.3f}  {text}" for text, share in ordered] or [one["answer"]]
        lines += [""] if len(answers) > 1 else []
    return "\n".join(lines).rstrip("\n")


def _check_picture(file: Path, model: str) -> None:
    from ..host.checkpoint.config import read_config

    require_package("matplotlib", "report")
    require_package("PIL", "report")
    if file.suffix.lower() != ".png" or not file.absolute().parent.is_dir():
        raise Ego2ExoError(f"--attention {file}", "a file with suffix .png in a folder that exists", "name another")
    if not read_config(model).get("ego2exo"):
        given = f"--attention with {model}, which has no ego tokens"
        raise Ego2ExoError(given, "a student trained with --ego2exo True", "leave it out")


def _draw(file: Path, model: VideoModel, clip: Clip, pixels: Any) -> None:
    """The attention of all tokens and heads in the last layer that they read."""
    from ..common.pages import attention_picture
    from ..host.model.inspection import video_attention_maps

    seen = video_attention_maps(model.answerer.model, pixels)
    attention_picture(clip.frames, seen.maps[-1].mean(0).numpy(), clip.times).save(file)
    print(f"attention of the ego tokens in layer {seen.layers[-1]}: {file}", file=sys.stderr)
