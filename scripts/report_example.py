"""An evaluation to look at: a tiny student is taught to answer about drawn clips, and asked about others.

    python scripts/report_example.py --out runs/example      # then open runs/example/eval/report.html

Base and student are asked in both modes by `llava-ego2exo eval`, in Ego-in-Exo Perception's format. Nothing is learnt
about egocentric video here: the clips show a coloured block that moves, and the model has random weights before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llava_ego2exo.demo.models import tiny_llava  # noqa: E402
from llava_ego2exo.evaluation.benchmarks.registry import read_benchmark  # noqa: E402
from llava_ego2exo.evaluation.plan import prompt_of  # noqa: E402
from tests.host.inference.evaluation import perception_rows  # noqa: E402

TRAINING = (
    "--version v1 --ego2exo True --lora_enable True --lora_r 64 --lora_alpha 64 --learning_rate 3e-3 --use_cpu True "
    "--per_device_train_batch_size 16 --frames_upbound 4 --model_max_length 1024 --save_strategy no --report_to none "
    "--logging_steps 20 --disable_tqdm True --gradient_checkpointing False --mm_projector_lr 3e-3"
).split()


def main() -> int:
    """Draw, train, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--clips", type=int, default=96, help="to learn from")
    parser.add_argument("--tests", type=int, default=48, help="to be asked about")
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True)
    base = tiny_llava(out / "base", "llama")
    for name, count in (("train", args.clips), ("test", args.tests)):
        rows = perception_rows(out / name, count, 0 if name == "train" else args.clips)
        (out / f"{name}_qas.json").write_text(json.dumps(rows))
    teach(out, base, args.epochs)
    run("llava_ego2exo", "eval", "--benchmark", "ego-in-exo", "--data", out / "test_qas.json", "--videos", out / "test",
        "--model", f"base={base}", "--model", f"student={out / 'student'}", "--model-base", f"student={base}",
        "--template", "v1", "--frames-upbound", "4", "--max-new-tokens", "16", "--batch-size", "8",
        "--mode", "generate", "likelihood", "--out", out / "eval")  # fmt: skip
    return 0


def teach(out: Path, base: Path, epochs: int) -> None:
    """LLaVA's own training on the published prompt with the right option's text behind it."""
    items = read_benchmark("ego-in-exo", out / "train_qas.json").items
    turns = [[{"from": "human", "value": f"<image>\n{prompt_of(item)}"},
              {"from": "gpt", "value": f"It is {item.choices[item.answer]}."}] for item in items]  # fmt: skip
    samples = [{"id": item.id, "video": item.video, "conversations": pair}
               for item, pair in zip(items, turns, strict=True)]  # fmt: skip
    (out / "train.json").write_text(json.dumps(samples))
    run("llava_ego2exo.train", *TRAINING, "--model_name_or_path", base, "--data_path", out / "train.json",
        "--video_folder", out / "train", "--output_dir", out / "student", "--num_train_epochs", epochs)  # fmt: skip


def run(module: str, *words: object) -> None:
    """One of the package's commands, in a process of its own."""
    subprocess.run([sys.executable, "-m", module, *map(str, words)], check=True)


if __name__ == "__main__":
    raise SystemExit(main())
