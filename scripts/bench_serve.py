"""Answers a second from a server with several clients, against `ask` one at a time; and seconds a window of `watch`.

    python scripts/bench_serve.py                            # a tiny model on the CPU
    python scripts/bench_serve.py --size 7b --frames 32      # on a GPU: real shapes, random weights
    python scripts/bench_serve.py --soak --requests 2000 --minutes 10

All ways read the same file and ask the same question; answers have `--tokens` tokens. `--soak` sends requests to a
server and then watches a file, and prints the process' memory on the way.
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _bench import Ways, about, add_common, dtype_of, machine, show, side_by_side, table
from _bench_model import LANGUAGE
from bench_answers import random_weights

QUESTION = "What does the person hold?"


def main() -> int:
    """Print seconds and ratios, or memory over time."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_common(parser)
    parser.add_argument("--size", choices=("tiny", *LANGUAGE), default="tiny")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16, help="of an answer (default: 16)")
    parser.add_argument("--requests", type=int, default=32, help="of a round (default: 32)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--soak", action="store_true", help="memory over many requests and minutes, in place of times")
    parser.add_argument("--minutes", type=float, default=10.0, help="of watching in --soak (default: 10)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        video, model = clip(work, args.frames), loaded(args, work)
        return soak(args, work, video, model) if args.soak else measure(args, video, model)


def measure(args: argparse.Namespace, video: Path, model: Any) -> int:
    """Median seconds for all requests, all ways taking turns."""
    from llava_ego2exo.video import read_video

    def one_at_a_time() -> None:
        for _ in range(args.requests):
            seen = model.prepare(read_video(str(video), frames_upbound=args.frames))
            model.answers(seen, [QUESTION])

    with served(args, video, model) as port:
        ways: Ways = {"ask, one at a time": one_at_a_time}
        for count in args.clients:
            ways[f"serve, {count} client(s)"] = partial(send, args, port, video, count)
        seconds = side_by_side(ways, args.rounds, args.device)
    windows = side_by_side(watching(args, model), args.rounds, args.device)
    settings = {key: getattr(args, key) for key in ("size", "frames", "tokens", "requests")}
    found = {"machine": machine(args.device), **settings, "seconds": seconds, "window": windows}
    first, whole = (next(iter(part.values())) for part in (seconds, windows))
    rows = [[name, f"{args.requests / value:.2f}", f"{first / value:.2f}"] for name, value in seconds.items()]
    lines = table(["way", "answers a second", "times as fast"], rows)
    rows = [[name, f"{value:.3f}", f"{whole / value:.2f}"] for name, value in windows.items()]
    lines += ["", *table(["a window of watch", "seconds", "times as fast"], rows)]
    alone, one = seconds["ask, one at a time"], seconds.get("serve, 1 client(s)")
    if one is not None:
        lines += ["", f"a request costs the server {1000 * (one - alone) / args.requests:.1f} ms more than `ask`"]
    show(args, found, [about(found), "", *lines])
    return 0


def watching(args: argparse.Namespace, model: Any) -> Ways:
    """One window with a question with options: all visual tokens, pooled with ego tokens, and ego tokens alone."""
    from llava_ego2exo.host.hooks.install import substituted
    from llava_ego2exo.host.model.inspection import tokens_off
    from llava_ego2exo.watching.questions import WatchQuestion
    from llava_ego2exo.watching.watch import answers, clip_of

    rng = np.random.default_rng(0)
    frames = [(float(t), rng.integers(0, 255, (96, 128, 3), dtype=np.uint8)) for t in range(args.frames)]
    seen, asked = clip_of(frames, args.frames), [WatchQuestion("hand", QUESTION, ("a cup", "a plate", "a spoon"))]
    config = model.answerer.model.config

    def run(off: bool = False, **settings: Any) -> None:
        with substituted(config, **settings):
            if off:
                with tokens_off():
                    list(answers(model, asked, seen, 0.5))
            else:
                list(answers(model, asked, seen, 0.5))

    return {
        "all visual tokens": partial(run, off=True),
        "pooled to one a frame, and ego tokens": partial(run, ego2exo_pool="1x1"),
        "ego tokens alone": partial(run, ego2exo_visual_tokens=False),
    }


def soak(args: argparse.Namespace, work: Path, video: Path, model: Any) -> int:
    """Memory after each tenth of the requests, and after each tenth of the minutes."""
    from llava_ego2exo.watching.questions import WatchQuestion
    from llava_ego2exo.watching.source import Source
    from llava_ego2exo.watching.watch import Watch, WatchSettings

    with served(args, video, model) as port:
        for part in range(11):
            if part:
                send(replace_requests(args, args.requests // 10), port, video, max(args.clients))
            print(f"serve: {part * args.requests // 10} requests, {resident():.0f} MiB", flush=True)
    long, ends = clip(work, int(60 * args.minutes) + 5), time.monotonic() + 60 * args.minutes
    source = Source(str(long), 1, 10.0, print)
    asked = [WatchQuestion("hand", QUESTION, ("a cup", "a plate")), WatchQuestion("what", QUESTION)]
    watch = Watch(model, source, asked, WatchSettings("camera", every=2.0), lambda _: None, lambda _: None,
                  lambda _: None, print)  # fmt: skip
    thread = threading.Thread(target=watch.run)
    thread.start()
    for part in range(11):
        time.sleep(max(0.0, ends - (10 - part) * 6 * args.minutes - time.monotonic()))
        print(f"watch: {part * args.minutes / 10:.1f} minutes, {watch.whole.windows} windows, {resident():.0f} MiB",
              flush=True)  # fmt: skip
    watch.stop.set()
    thread.join()
    return 0


def replace_requests(args: argparse.Namespace, count: int) -> argparse.Namespace:
    """The same arguments with another number of requests."""
    return argparse.Namespace(**{**vars(args), "requests": count})


def resident() -> float:
    """MiB that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


class served:
    """A server of the model in a thread of this process, inside a `with` block: its port."""

    def __init__(self, args: argparse.Namespace, video: Path, model: Any) -> None:
        import uvicorn

        from llava_ego2exo.serving.app import make_app
        from llava_ego2exo.serving.settings import ServeSettings

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        settings = ServeSettings(media=video.parent, max_tokens=args.tokens, batch=max(args.clients))
        self.server = uvicorn.Server(
            uvicorn.Config(make_app({"model": model}, settings), port=self.port, log_level="error")
        )
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> int:
        self.thread.start()
        while not self.server.started:
            time.sleep(0.05)
        return self.port

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(20)


def send(args: argparse.Namespace, port: int, video: Path, clients: int) -> None:
    """All requests, from so many clients."""
    content = [{"type": "video_url", "video_url": {"url": video.name}}, {"type": "text", "text": QUESTION}]
    body = json.dumps({"model": "model", "messages": [{"role": "user", "content": content}]}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    with ThreadPoolExecutor(clients) as pool:
        for _ in pool.map(lambda _: urllib.request.urlopen(request).read(), range(args.requests)):
            pass


def clip(folder: Path, seconds: int) -> Path:
    """A video of noise, a frame a second."""
    import av

    file, rng = folder / f"clip{seconds}.mp4", np.random.default_rng(0)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for _ in range(seconds):
            picture = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file


def loaded(args: argparse.Namespace, work: Path) -> Any:
    """A model with ego tokens and random weights, whose answers do not end before their longest."""
    from llava_ego2exo.config import Ego2ExoConfig
    from llava_ego2exo.host.inference.answerer import load_answerer
    from llava_ego2exo.host.inference.ask import VideoModel
    from llava_ego2exo.host.inference.settings import InferenceOptions, resolve_inference_settings

    path = random_weights(args.size, work)
    dtype = str(dtype_of(args)).removeprefix("torch.")
    template = None if "qwen" in path.name else "v1"
    options = InferenceOptions(template=template, dtype=dtype, frames_upbound=args.frames)
    how = resolve_inference_settings(str(path), None, options, args.tokens)
    answerer = load_answerer(str(path), None, how, 0 if args.device.startswith("cuda") else None)
    add_ego_tokens(answerer.model, Ego2ExoConfig())
    answerer.stops = []
    return VideoModel(answerer, replace(how, max_new_tokens=args.tokens))


def add_ego_tokens(model: Any, flags: Any) -> None:
    """Give a loaded model untrained ego tokens, as training does before its first step."""
    from types import SimpleNamespace

    config = model.config
    args = SimpleNamespace(
        vision_tower=config.mm_vision_tower, mm_vision_select_layer=config.mm_vision_select_layer,
        mm_vision_select_feature=getattr(config, "mm_vision_select_feature", "patch"), pretrain_mm_mlp_adapter=None,
        mm_patch_merge_type=getattr(config, "mm_patch_merge_type", "flat"), mm_projector_type=config.mm_projector_type,
        mm_resampler_type=None, add_faster_video=False,
        ego2exo=True, **flags.to_dict(),
    )  # fmt: skip
    with torch.no_grad():
        model.get_model().initialize_vision_modules(args)
    model.to(model.device, model.dtype)


if __name__ == "__main__":
    raise SystemExit(main())
