"""Made-up benchmarks through the real lmms-eval, and its results against what they must be; see check_lmms.sh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 80, 230), "yellow": (230, 210, 40)}
SETS = {"adlx-charades-ar": "Charades-AR", "adlx-smarthome-ar": "Smarthome-AR", "adlx-lemma-tc": "LEMMA-TC",
        "adlx-tsu-tc": "TSU-TC"}  # fmt: skip
PACKAGES = ("lmms_eval", "torch", "torchvision", "transformers", "accelerate", "numpy", "datasets", "peft", "decord")
NEXT = "llava.model.language_model.llava_qwen"


def main(out: Path) -> None:
    """Draw, render, run every model entry, compare."""
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES), flush=True)
    expected = make_benchmarks(out)
    check_dummy(out, expected)
    check_faults(out)
    base, template = make_checkpoint(out)
    check_own(out, base, template, expected)
    if template == "qwen_1_5":
        check_stock(out, base, expected)
    else:
        print("not checked: llava_onevision, which needs LLAVA_NEXT")
    print("all checks passed")


def draw(path: Path, colour: str) -> None:
    """A clip of a block that crosses the picture."""
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for step in range(8):
            picture = np.full((64, 64, 3), 20, dtype=np.uint8)
            picture[24:40, 6 * step : 6 * step + 16] = COLOURS[colour]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def make_benchmarks(out: Path) -> dict[str, dict[str, Any]]:
    """Data, clips and tasks of every benchmark that can be rendered.

    Returns:
        Task -> its number of questions, and of multiple choice the share of the answer A, whole and by category.
    """
    videos = out / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    for number, colour in enumerate(COLOURS):
        for view in ("exo1", "ego"):
            draw(videos / f"t{number}_{view}.mp4", colour)
    expected = {}
    for place, (name, file) in enumerate({"ego-in-exo": "all_category_qas", **SETS}.items()):
        rows = choice_rows(6 + place, name == "ego-in-exo")
        views = {"ego-in-exo": ("exo", "ego")}.get(name, ("",))
        render(out, name, file, rows, "both" if len(views) == 2 else None)
        for view in views:
            task = f"ego2exo_perception_{view}" if view else f"ego2exo_{name.replace('-', '_')}"
            expected[task] = {"n": len(rows), "acc": share(rows)}
            for category in {row["category_name"] for row in rows if "category_name" in row}:
                own = [row for row in rows if row["category_name"] == category]
                expected[task][f"acc_{category.lower()}"] = share(own)
    asked = {"Q": "Describe it.", "cons_Q1": "What moves?", "cons_Q2": "Which thing moves?"}
    answers = {"A": "A block moves to the right.", "cons_A": "A block."}
    rows = [{"video_name": f"t{n}_exo1.mp4", **asked, **answers} for n in range(3)]
    render(out, "adlx-charades-desc", "Charades-Description", rows, None)
    return {**expected, "ego2exo_adlx_charades_desc": {"n": 9}}


def choice_rows(count: int, perception: bool) -> list[dict[str, Any]]:
    """Rows in today's format; every third answer is A."""
    categories = {"category_name": "Hands"}, {"category_name": "Objects"}
    return [
        {
            "video_filename": f"t{n % 4}_exo1" if perception else f"t{n % 4}_exo1.mp4",
            **(categories[n % 2] if perception else {}),
            "question": f"Which colour has block {n}?",
            "answer_choices": dict(zip("ABCDEF"[: 4 + n % 3], [*COLOURS, "white", "black"], strict=False)),
            "ground_truth_letter": "ABC"[n % 3],
        }
        for n in range(count)
    ]


def share(rows: list[dict[str, Any]]) -> float:
    """Of the answer A."""
    return sum(row["ground_truth_letter"] == "A" for row in rows) / len(rows)


def render(out: Path, name: str, file: str, rows: list[dict[str, Any]], view: str | None) -> None:
    """Write the data and let our command make tasks of it."""
    data = out / "data" / f"{file}.json"
    data.parent.mkdir(exist_ok=True)
    data.write_text(json.dumps(rows))
    command = ["eval", "--render-lmms", out / "tasks", "--benchmark", name, "--data", data, "--videos", out / "videos"]
    run([sys.executable, "-m", "llava_ego2exo", *command, *(["--view", view] if view else [])], out / "render.log")


def run(command: list[Any], log: Path, fails: bool = False) -> str:
    """Run a command, keep what it says, and stop where its exit code is not as it should be."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log.write_text(done.stdout)
    if (done.returncode != 0) != fails:
        sys.exit(f"{done.stdout[-3000:]}\nexit code {done.returncode}, see {log}")
    return done.stdout


def lmms_eval(out: Path, model: str, arguments: str, tasks: str, name: str, *further: str, fails: bool = False) -> Any:
    """One run of lmms-eval; its results and samples (by task), or what it said where it has to fail."""
    logs = out / "logs" / name
    logs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "lmms_eval", "--model", model, "--model_args", arguments, "--tasks", tasks]
    command += ["--include_path", out / "tasks", "--batch_size", "1", "--log_samples", "--output_path", logs, *further]
    said = run(command, logs / "run.log", fails)
    if fails:
        return said
    (results,) = logs.rglob("*_results.json")
    samples = {}
    for file in logs.rglob("*_samples_*.jsonl"):
        samples[file.stem.split("_samples_")[1]] = [json.loads(line) for line in file.read_text().splitlines()]
    return json.loads(results.read_text()), samples


def same(what: str, found: Any, wanted: Any) -> None:
    """Stop where something is not as it must be."""
    right = abs(found - wanted) < 1e-9 if isinstance(wanted, float) else found == wanted
    if not right:
        sys.exit(f"{what}: {found}, must be {wanted}")


def check_counts(name: str, expected: dict[str, Any], results: Any, samples: Any) -> None:
    """Every question was asked once."""
    for task, wanted in expected.items():
        same(f"{name}, {task}, n", results["n-samples"][task]["effective"], wanted["n"])
        same(f"{name}, {task}, samples", len({row["doc_id"] for row in samples[task]}), wanted["n"])


def check_dummy(out: Path, expected: dict[str, Any]) -> None:
    """A model that always says A is right as often as A is the answer."""
    results, samples = lmms_eval(out, "dummy", "response=A", "ego2exo", "dummy", "--verbosity", "DEBUG")
    check_counts("dummy", expected, results, samples)
    for task, wanted in expected.items():
        found = results["results"][task]
        for metric, value in wanted.items():
            if metric != "n":
                same(f"dummy, {task}, {metric}", found[f"{metric},none"], value)
        same(f"dummy, {task}, blank", found[f"{'empty' if task.endswith('desc') else 'unparsed'}_rate,none"], 0.0)
        shown = {metric: round(found[f"{metric},none"], 4) for metric in wanted if metric != "n"}
        print(f"dummy: {task}: n {wanted['n']}, {shown}", flush=True)
    sets = [expected[f"ego2exo_{name.replace('-', '_')}"]["acc"] for name in SETS]
    same("dummy, ego2exo_adlx", results["results"]["ego2exo_adlx"]["acc,none"], sum(sets) / len(sets))
    _, silent = lmms_eval(out, "dummy", "response=dunno", "ego2exo_perception_exo", "silent", "--verbosity", "DEBUG")
    same("unparsed", {row["unparsed_rate"]["score"] for row in silent["ego2exo_perception_exo"]}, {1.0})


def check_faults(out: Path) -> None:
    """A broken clip ends a run with an error, with lmms-eval's wrapper and with ours, also without DEBUG."""
    clip = out / "videos" / "t0_ego.mp4"
    whole = clip.read_bytes()
    clip.write_bytes(whole[: len(whole) // 3])
    try:
        said = lmms_eval(out, "dummy", "read_bytes=1", "ego2exo_perception_ego", "broken", fails=True)
        if "does not decode" not in said:
            sys.exit(f"a broken clip is not named: {said[-2000:]}")
        print("broken clip: the run ends with an error that names it", flush=True)
    finally:
        clip.write_bytes(whole)


def make_checkpoint(out: Path) -> tuple[Path, str]:
    """A tiny LLaVA with random weights, and its conversation template."""
    from importlib.util import find_spec

    from llava_ego2exo.demo.models import tiny_llava

    kind, template = ("qwen", "qwen_1_5") if find_spec(NEXT) else ("llama", "v1")
    return tiny_llava(out / f"llava-{kind}-tiny", kind), template


def check_own(out: Path, model: Path, template: str, expected: dict[str, Any]) -> None:
    """Our entry on every task; the same replies as `llava-ego2exo eval` gives; also with 4 bits."""
    arguments = f"pretrained={model},conv_template={template},max_frames_num=4"
    results, samples = lmms_eval(out, "llava_ego2exo", arguments, "ego2exo", "own", "--verbosity", "DEBUG")
    check_counts("llava_ego2exo", expected, results, samples)
    flags = [
        "--benchmark",
        "ego-in-exo",
        "--data",
        out / "data",
        "--videos",
        out / "videos",
        "--model",
        f"tiny={model}",
    ]
    flags += ["--template", template, "--frames-upbound", "4", "--out", out / "eval"]
    run([sys.executable, "-m", "llava_ego2exo", "eval", *flags], out / "eval.log")
    lines = map(json.loads, (out / "eval/tiny/generate/replies.jsonl").read_text().splitlines())
    ours = {line["id"]: line["reply"] for line in lines}
    theirs = {row["acc"]["id"]: row["filtered_resps"] for row in samples["ego2exo_perception_exo"]}
    same("replies of `eval` and of lmms-eval", theirs, ours)
    print(f"llava_ego2exo: all tasks; {len(ours)} replies as those of `llava-ego2exo eval`", flush=True)
    lmms_eval(out, "llava_ego2exo", f"{arguments},load_4bit=True", "ego2exo_perception_exo", "own-4bit")
    print("llava_ego2exo: load_4bit=True", flush=True)


def check_stock(out: Path, model: Path, expected: dict[str, Any]) -> None:
    """lmms-eval's own wrapper on every task."""
    arguments = f"pretrained={model},model_name=llava_qwen,conv_template=qwen_1_5,max_frames_num=4,device_map=auto"
    further = ("--device", "cpu", "--verbosity", "DEBUG")
    results, samples = lmms_eval(out, "llava_onevision", arguments, "ego2exo", "stock", *further)
    check_counts("llava_onevision", expected, results, samples)
    print("llava_onevision: all tasks", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]).resolve())
