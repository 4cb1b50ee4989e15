"""`llava-ego2exo watch`: questions about a camera, asked again and again."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from dataclasses import fields
from pathlib import Path

from ..errors import require_package
from .flags import add_model_flags


def add(subparsers: argparse._SubParsersAction) -> None:
    """``watch SOURCE --model CKPT --questions FILE [...]``"""
    parser = subparsers.add_parser("watch", help="ask a model about a camera, again and again")
    parser.add_argument("source", metavar="SOURCE", help="an RTSP URL, a device (/dev/video0) or a video file")
    parser.add_argument("--model", required=True, metavar="CKPT", help="a LLaVA checkpoint")
    base = "the model that CKPT was trained from, where it is a LoRA or projector folder"
    parser.add_argument("--base", metavar="BASE", help=base)
    questions = 'a JSON list of {"name": ..., "question": ..., "options": [...]}; without options a text is answered'
    parser.add_argument("--questions", required=True, type=Path, metavar="FILE", help=questions)
    group = parser.add_argument_group("windows")
    window = "seconds that the model is shown (default: 20)"
    group.add_argument("--window", type=float, default=20.0, metavar="S", help=window)
    every = "seconds from one window to the next (default: 5)"
    group.add_argument("--every", type=float, default=5.0, metavar="S", help=every)
    sure = 'probability from which an option is an answer; else it is "cannot tell" (default: 0.6)'
    group.add_argument("--sure", type=float, default=0.6, metavar="P", help=sure)
    group.add_argument("--fast", action="store_true", help="play a file as fast as the model goes")
    silence = "seconds without a frame after which a stream is opened anew (default: 10)"
    group.add_argument("--silence", type=float, default=10.0, metavar="S", help=silence)
    longest = "most tokens of a text (default: 64)"
    group.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help=longest)
    group = parser.add_argument_group("answers, beside JSON Lines on stdout")
    camera = "the camera's name in them (default: from SOURCE)"
    group.add_argument("--camera", metavar="NAME", help=camera)
    mqtt = "publish to this broker, with Home Assistant's discovery: mqtt://[user:password@]host[:port]"
    group.add_argument("--mqtt", metavar="URL", help=mqtt)
    group.add_argument("--webhook", metavar="URL", help="post each answer as JSON to this address")
    group.add_argument("--keep", type=Path, metavar="DIR", help="keep the frames of each window (default: none are)")
    add_model_flags(parser.add_argument_group("model"))
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    for package in ("av", "PIL", *(["paho.mqtt"] if args.mqtt else [])):
        require_package(package, "watch")
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # LLaVA prints
        return _watch(args, stack)


def _watch(args: argparse.Namespace, stack: contextlib.ExitStack) -> int:
    from ..host.inference.answerer import load_answerer
    from ..host.inference.ask import VideoModel, renamed_flags
    from ..host.inference.settings import InferenceOptions, resolve_inference_settings
    from ..watching.outputs import Keeper, Mqtt, Webhook, print_line, topic_name
    from ..watching.questions import read_questions
    from ..watching.source import Source
    from ..watching.watch import Watch, WatchSettings

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    camera = topic_name(args.camera or Path(args.source.partition("?")[0].rpartition("@")[2]).stem)
    settings = WatchSettings(camera, args.window, args.every, args.sure, args.fast)
    questions, source = read_questions(args.questions), Source(args.source, args.video_fps, args.silence, say)
    chosen = {one.name: getattr(args, one.name) for one in fields(InferenceOptions) if hasattr(args, one.name)}
    with renamed_flags({"model-base": "--base"}):
        how = resolve_inference_settings(args.model, args.base, InferenceOptions(**chosen), args.max_new_tokens)
        webhook = Webhook(args.webhook, say) if args.webhook else None
        keeper = Keeper(args.keep) if args.keep else None
        mqtt = Mqtt(args.mqtt, camera, questions, say) if args.mqtt else None
        model = VideoModel(load_answerer(args.model, args.base, how), how)
    outputs, stdout = [one.send for one in (mqtt, webhook) if one is not None], sys.__stdout__

    def send(line: dict) -> None:
        with contextlib.redirect_stdout(stdout):
            print_line(line)
        for output in outputs:
            output(line)

    if mqtt is not None:
        stack.callback(mqtt.close)
    watch = Watch(
        model, source, questions, settings, send, keeper.keep if keeper else (lambda _frames: None),
        mqtt.set_available if mqtt else (lambda _there: None), say,
    )  # fmt: skip
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, lambda *_: watch.stop.set())
    watch.run()
    return 0
