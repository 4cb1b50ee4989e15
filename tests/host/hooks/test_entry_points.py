"""The ways in: our own train module, a patched LLaVA checkout's own scripts, and a program that only knows `llava`."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from llava_ego2exo import patching
from llava_ego2exo.host.hooks.flavour import package_folder

REPOSITORY = Path(__file__).parents[3]


def run(arguments, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    """A copy of the host's packages with the patch applied."""
    if not entry_points(group="llava.plugins"):
        pytest.skip("llava-ego2exo is not installed (pip install -e .), so that nothing declares its entry point")
    checkout, source = tmp_path_factory.mktemp("checkout"), package_folder()
    for package in ("llava", "trl"):
        if (source.parent / package).is_dir():
            shutil.copytree(source.parent / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    assert patching.apply(checkout) == "patched"
    return checkout


def test_our_train_module(world, tmp_path):
    """The README's command: 4 bits and bfloat16 under torchrun, where LLaVA's default settings die in DDP."""
    flags = {"bits": 4, "bf16": True, "gradient_checkpointing": True, "ddp_backend": "gloo"}
    arguments = world.arguments(tmp_path / "out", max_steps=2, ego2exo_check_saved=True, **flags)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1", "-m", "llava_ego2exo.train"]
    done = run([*launch, *arguments])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the saved student equals the one in memory" in done.stdout
    assert "load_pretrained_model(" in done.stdout and "--ddp_find_unused_parameters False" in done.stdout
    assert (tmp_path / "out" / "non_lora_trainables.bin").is_file()


def test_a_patched_llava_trains_with_its_own_script(world, patched, tmp_path):
    done = run(
        ["-m", "llava.train.train_mem", *world.arguments(tmp_path / "out", max_steps=1)],
        PYTHONPATH=f"{patched}:{REPOSITORY}",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ego2exo: saved to" in done.stdout


def test_a_program_that_only_knows_llava_loads_a_student(world, patched, student):
    code = (
        "from llava.model.builder import load_pretrained_model\n"
        f"m = load_pretrained_model({str(student().folder)!r}, {str(world.base())!r}, 'llava_lora')[1]\n"
        "print('tokens', m.get_model().mm_projector.ego_tokens.reader.num_tokens)\n"
        "import sys; print('train' if 'llava.train.train' in sys.modules else 'no train module')"
    )
    done = run(["-c", code], PYTHONPATH=f"{patched}:{REPOSITORY}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "tokens 4" in done.stdout and "no train module" in done.stdout
