"""The scripts under a real torchrun, with a tiny model and no GPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llava_ego2exo import cli
from llava_ego2exo.host.resume.checkpoints import UNFINISHED

SCRIPTS = Path(__file__).parents[3] / "scripts"


@pytest.fixture
def run(world, tmp_path):
    """Run a script in a folder of its own; `flags` go behind the script's, so that they win."""
    stubs = {
        "torchrun": f'exec "{sys.executable}" -m torch.distributed.run "$@"',
        "srun": 'while [[ "$1" == --* ]]; do shift; done\nexec "$@"',
        "scontrol": "echo localhost",
        "llava-ego2exo": f'exec "{sys.executable}" -m llava_ego2exo "$@"',
    }
    (tmp_path / "bin").mkdir()
    for name, text in stubs.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "scripts").mkdir()
    for shared in ("_recipe.sh", "_slurm.sh"):
        shutil.copy(SCRIPTS / shared, tmp_path / "scripts")

    def run_script(name, *arguments, fails=None):
        variables = {
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "GPUS": "1", "SLURM_GPUS_ON_NODE": "1",
            "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "localhost",
            "SLURM_CPUS_PER_TASK": "2", "SLURM_SUBMIT_DIR": str(tmp_path),
        }  # fmt: skip
        command = ["bash", SCRIPTS / name, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == (0 if fails is None else 1), done.stderr[-9000:]
        assert fails is None or fails in done.stderr
        return done.stdout

    return run_script


@pytest.fixture
def run_training(run, world, tmp_path):
    """A training script on the world's data; `flags` replace the script's. Its log, and the student's folder."""

    def run_script(name, **flags):
        out = "runs/llava-qwen-ego2exo"
        arguments = world.arguments(
            out, bits=16, bf16=False, gradient_accumulation_steps=1, ddp_backend="gloo", gradient_checkpointing=True,
            per_device_train_batch_size=1, **flags,
        )  # fmt: skip
        return run(name, *arguments), tmp_path / out

    return run_script


@pytest.mark.slow
def test_slurm_resumes_the_newest_complete_checkpoint(run_training, tmp_path):
    """With one process: transformers cannot resume several that have no GPU (torch knows no device "cpu:0")."""
    saving = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    out = tmp_path / "runs/llava-qwen-ego2exo"
    (out / UNFINISHED / "checkpoint-3").mkdir(parents=True)
    log, _ = run_training("slurm_train.sh", **saving)
    assert "checkpoint-3" in log and not (out / UNFINISHED).exists()
    (out / "checkpoint-2" / "trainer_state.json").unlink()
    log, _ = run_training("slurm_train.sh", **saving)
    assert "damaged-checkpoint-2" in log and f"resuming {Path('runs', out.name, 'checkpoint-1')}" in log
    steps = json.loads((out / "checkpoint-2/trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in steps] == [1, 2] and log.count("'loss': ") == 1


@pytest.mark.slow
def test_from_paired_videos_to_a_student(run, run_training, world, monkeypatch, tmp_path):
    """Every step, with the paths that the scripts share; the untrained teacher's answers are flagged, so not used."""
    videos, teacher = tmp_path / "data/videos", world.base()
    videos.mkdir(parents=True)
    for number, file in enumerate(sorted(world.videos.glob("*.mp4"))[:4]):
        shutil.copy(file, videos / f"t{number // 2}_0001_{('ego', 'exo1')[number % 2]}.mp4")
    model = ("--model", teacher, "--template", world.template("llama"), "--frames-upbound", "4")
    log = run("teach.sh", *model, "--max-new-tokens", "8", fails="left to train on")
    assert "3 of 3 answers in data/answers/answers.jsonl" in log
    monkeypatch.chdir(tmp_path)
    files = ["--pairs", "data/pairs.jsonl", "--answers", "data/answers", "--out", "data/train.json"]
    assert cli.main(["targets", *files, "--video-folder", "data/videos", "--flagged", "keep"]) == 0
    log, student = run_training(
        "train_torchrun.sh", data_path=None, video_folder=None, model_name_or_path=teacher, max_steps=2
    )
    assert log.count("load_pretrained_model(") == 1 and (student / "non_lora_trainables.bin").is_file()
    assert json.loads((student / "adapter_config.json").read_text())["r"] == 16
