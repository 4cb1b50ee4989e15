"""`llava-ego2exo serve`: students behind an OpenAI-compatible port."""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import fields
from pathlib import Path

from ..common.endpoints import environment_key
from ..errors import require_package
from ..video.limits import VideoLimits
from .flags import add_model_flags, add_video_limits


def add(subparsers: argparse._SubParsersAction) -> None:
    """``serve --model NAME=CKPT [...]``"""
    parser = subparsers.add_parser("serve", help="answer OpenAI's chat requests about videos")
    model = "a LLaVA checkpoint to serve, under this name (default: its last folder's); may be repeated"
    parser.add_argument("--model", action="append", required=True, metavar="[NAME=]CKPT", help=model)
    base = "what that model was trained from, where it is a LoRA or projector folder"
    parser.add_argument("--model-base", action="append", default=[], metavar="[NAME=]BASE", help=base)
    group = parser.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    group.add_argument("--port", type=int, default=8000, metavar="N", help="0: any that is free (default: 8000)")
    group.add_argument("--media", type=Path, metavar="DIR", help="folder whose videos requests may name")
    group.add_argument("--allow-http", dest="http", action="store_true", help="fetch frames from http(s) addresses")
    key = "environment variable with the key that requests must give (default: none is asked)"
    group.add_argument("--api-key-env", metavar="NAME", help=key)
    queue = "requests that may wait; more get status 429 (default: 64)"
    group.add_argument("--queue", type=int, default=64, metavar="N", help=queue)
    batch = "requests of one shape that go through the model together (default: 8)"
    group.add_argument("--batch", type=int, default=8, metavar="N", help=batch)
    longest = "most tokens of an answer (default: 256)"
    group.add_argument("--max-tokens", type=int, default=256, metavar="N", help=longest)
    body = "largest request in MiB (default: 64)"
    group.add_argument("--max-body-mb", type=int, default=64, metavar="N", help=body)
    wait = "seconds after which a request that still waits is given up (default: 300)"
    group.add_argument("--timeout", type=float, default=300.0, metavar="S", help=wait)
    group = parser.add_argument_group("videos and models")
    add_model_flags(group)
    add_video_limits(group)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    for package in ("fastapi", "uvicorn", "prometheus_client", "PIL"):
        require_package(package, "serve")
    from ..evaluation.job import models_of
    from ..evaluation.preparation import settled
    from ..host.inference.answerer import load_answerer
    from ..host.inference.ask import VideoModel
    from ..host.inference.settings import InferenceOptions, resolve_inference_settings
    from ..serving.server import Server, take_port
    from ..serving.settings import ServeSettings

    given = {one.name: getattr(args, one.name) for one in fields(ServeSettings) if hasattr(args, one.name)}
    key = environment_key(args.api_key_env, "--api-key-env") if args.api_key_env else None
    settings = ServeSettings(**given, api_key=key)
    chosen = {one.name: getattr(args, one.name) for one in fields(InferenceOptions) if hasattr(args, one.name)}
    options, served = InferenceOptions(**chosen), [settled(one) for one in models_of(args.model, args.model_base)]
    how = [resolve_inference_settings(one.path, one.base, options, settings.max_tokens) for one in served]
    port = take_port(settings)
    models = {
        one.name: VideoModel(load_answerer(one.path, one.base, own), own) for one, own in zip(served, how, strict=True)
    }
    from ..serving.app import make_app

    if settings.open_to_others and settings.api_key is None:
        print(f"other machines can reach {settings.host}, and no key is asked (--api-key-env)", file=sys.stderr)
    app = make_app(models, settings, VideoLimits.from_object(args))
    with contextlib.suppress(KeyboardInterrupt):
        Server(app).run([port])
    return 0
