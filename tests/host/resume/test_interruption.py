"""Runs that are killed, disks that are full, checkpoints that are damaged: the last whole one is always there."""

import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.resume import checkpoints, state
from llava_ego2exo.host.resume.checkpoints import MANIFEST, UNFINISHED, look, set_aside
from llava_ego2exo.merge import merge

from .test_resume import logged, weights

pytestmark = pytest.mark.fault
SIX = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 2}


def logs_of(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    timed = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
    return [{name: value for name, value in entry.items() if name not in timed} for entry in history]


def student_of(folder):
    extras = torch.load(folder / "non_lora_trainables.bin", weights_only=True)
    return {**load_file(folder / "adapter_model.safetensors"), **extras}


def killed_behind(command, step, wait):
    """Start a command, and kill it a moment behind its n-th step."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    seen = 0
    for line in process.stdout:
        seen += line.startswith("{'loss'")
        if seen == step:
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.read()
    return process.wait()


@pytest.mark.slow
def test_a_run_killed_at_a_random_step_ends_as_if_it_had_not_been(world, tmp_path, fault_table):
    """The real command, three times: whole, killed by SIGKILL, and the same once more."""
    flags = {"max_steps": 12, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 2}
    flags |= {"ego2exo_check_saved": True, "save_total_limit": 2, "logging_steps": 1}

    def command(name):
        return [sys.executable, "-m", "llava_ego2exo.train", *world.arguments(tmp_path / name, **flags)]

    whole = subprocess.run(command("whole"), capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr[-3000:]
    assert "the saved student equals the one in memory" in whole.stdout
    step, wait = random.randint(3, 10), random.random() * 0.05
    code = killed_behind(command("cut"), step, wait)
    assert code == -signal.SIGKILL, f"behind step {step}, {wait:.3f} s"
    again = subprocess.run(command("cut"), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "goes on from" in again.stdout, f"killed behind step {step}"
    ours, theirs = student_of(tmp_path / "cut"), student_of(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    same = all(torch.equal(ours[name], theirs[name]) for name in ours)
    same = same and logs_of(tmp_path / "cut") == logs_of(tmp_path / "whole")
    fault_table("run killed by SIGKILL at a random step: the same weights and logs when started again", 1, int(same))


EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
_watched = []


def _hook(event, arguments):
    if _watched and event in EVENTS:
        _watched[-1](event, arguments)


sys.addaudithook(_hook)  # it can never be taken out again, and does nothing while nobody watches


@pytest.mark.parametrize("way", ["lora", "projector"])
def test_a_checkpoint_cut_at_any_moment_is_never_taken_for_whole(way, train, tmp_path, monkeypatch, fault_table):
    out, snapshots = tmp_path / "s", tmp_path / "snapshots"
    snapshots.mkdir()
    alone = {"lora_enable": False, "tune_mm_mlp_adapter": True} if way == "projector" else {}

    def snap(_event, arguments):
        if arguments and isinstance(arguments[0], (str, Path)) and str(out) in str(arguments[0]):
            watch, _watched[:] = _watched[:], []
            shutil.copytree(out, snapshots / f"{len(os.listdir(snapshots)):03d}")
            _watched[:] = watch

    finish = checkpoints.finish

    def counting(part, target, run):
        finish(part, target, run)
        _watched[:] = [snap] if target.name == "checkpoint-3" else []

    monkeypatch.setattr(state, "finish", counting)
    # Watched from behind checkpoint-3 to checkpoint-6 in its place: all that is written, moved and deleted.
    train(out, **SIX, **alone)
    _watched[:] = []
    taken = sorted(snapshots.iterdir())
    assert len(taken) >= 8
    files = {path.name: path.stat().st_size for path in (out / "checkpoint-6").iterdir()}
    survived = tried = 0
    for snapshot in taken:
        for cut in [None, *(path for path in (snapshot / UNFINISHED).rglob("*") if path.is_file())]:
            if cut is not None:
                os.truncate(cut, cut.stat().st_size // 2)
            found = look(snapshot)
            whole = found.last is not None and not found.damaged
            if whole and found.last.name == "checkpoint-6":
                whole = {path.name: path.stat().st_size for path in found.last.iterdir()} == files
            tried, survived = tried + 1, survived + bool(whole)
    fault_table("checkpoint cut while it is written, at each opening, renaming and byte count tried", tried, survived)
    if way == "lora":  # which the killed run resumes
        return
    resumed_from = next(path for path in taken if (path / UNFINISHED).is_dir())
    whole = train(tmp_path / "whole", **SIX, **alone)
    again = train(resumed_from, **SIX, **alone)
    assert logged(again) == logged(whole)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(again).items())
    assert not (resumed_from / UNFINISHED).exists()


def test_a_damaged_checkpoint_is_left_for_the_one_before(train, tmp_path, capsys, fault_table):
    out = tmp_path / "s"
    alone = {"lora_enable": False, "tune_mm_mlp_adapter": True}
    whole = train(out, **SIX, **alone)
    last, kept = out / "checkpoint-6", tmp_path / "kept"
    shutil.copytree(last, kept)
    tried = survived = 0
    for file in sorted(kept.iterdir()):
        for damage in (
            lambda f: f.unlink(),
            lambda f: os.truncate(f, f.stat().st_size // 2),
            lambda f: os.truncate(f, 0),
        ):
            shutil.copy(file, last / file.name)
            damage(last / file.name)
            found = look(out, ("mm_projector.bin", "optimizer.pt"))
            good = [path.name for path in found.whole] == ["checkpoint-3"] and found.damaged[0][0] == last
            # Without its list a checkpoint counts as one that was written without this plugin: by what must be there.
            unlisted = file.name == MANIFEST and not (last / MANIFEST).exists() and found.last == last
            tried, survived = tried + 1, survived + (good or unlisted)
        shutil.copy(file, last / file.name)
    fault_table(
        "file of the last checkpoint missing, halved or empty: the one before is taken, and told", tried, survived
    )
    (last / "mm_projector.bin").unlink()
    capsys.readouterr()
    again = train(out, **SIX, **alone)
    told = capsys.readouterr().out
    assert "checkpoint-6 is damaged (it has no mm_projector.bin) and is now called damaged-checkpoint-6" in told
    assert "the run goes on from checkpoint-3" in told and "checkpoints that were not used: 1" in told
    assert logged(again) == logged(whole)
    for path in ("checkpoint-3", "checkpoint-6"):
        (out / path / "mm_projector.bin").unlink()
    with pytest.raises(Ego2ExoError, match="cannot be resumed: it has no mm_projector.bin; no other.*is whole"):
        train(out, **SIX, **alone)


def in_child(work):
    """What a forked process says; it may not write to any file of ours but what `work` writes."""
    reader, writer = multiprocessing.Pipe(False)

    def run():
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        try:
            work()
            writer.send("nothing")
        except BaseException as error:
            writer.send(f"{type(error).__name__}: {error}")
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    said = reader.recv() if reader.poll(120) else "hung"
    process.join(10)
    return said


FULL = (
    r"Ego2ExoError: .*(checkpoint-6|a file of --output_dir \S+) could not be written: .*checkpoint-3 is whole"
    r".*free some space.*checkpoint-3"
)


def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(train, tmp_path, monkeypatch, fault_table):
    """The operating system itself refuses bytes, at another file each time (RLIMIT_FSIZE)."""
    finish = checkpoints.finish
    whole = train(tmp_path / "whole", **SIX)
    sizes = sorted(path.stat().st_size for path in (tmp_path / "whole" / "checkpoint-6").iterdir())
    limits = [sizes[-1] - 1, sizes[-2] - 1, sizes[len(sizes) // 2], 100]
    survived = 0
    for limit in limits:
        out = tmp_path / f"limit{limit}"

        def limited(part, target, run, limit=limit):
            finish(part, target, run)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

        monkeypatch.setattr(state, "finish", limited)
        said = in_child(lambda out=out: train(out, **SIX))
        monkeypatch.setattr(state, "finish", finish)
        assert re.match(FULL, said, re.DOTALL), said
        survived += look(out).last == out / "checkpoint-3" and not (out / UNFINISHED).exists()
    again = train(out, **SIX)
    assert logged(again) == logged(whole)
    fault_table("disk that takes no more bytes while a checkpoint is written", len(limits), survived)


def test_a_small_disk(train, tmp_path, fault_table):
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("mounting a tmpfs is for root")
    first = train(tmp_path / "sizes", **SIX)
    assert first.state.global_step == 6
    size = sum(path.stat().st_size for path in (tmp_path / "sizes" / "checkpoint-3").iterdir())
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(size * 1.6) // 1024}k", "none", str(disk)])
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(Ego2ExoError, match=FULL.removeprefix("Ego2ExoError: ")):
            train(disk / "s", **SIX)
        good = look(disk / "s").last == disk / "s" / "checkpoint-3" and not (disk / "s" / UNFINISHED).exists()
        subprocess.run(["mount", "-o", f"remount,size={size * 8 // 1024}k", str(disk)], check=True)
        assert logged(train(disk / "s", **SIX)) == logged(first)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    fault_table("small tmpfs that is full: error, space, the same command again", 1, int(good))


@pytest.mark.parametrize("way", ["lora", "projector"])
def test_old_checkpoints_go_and_the_last_ones_merge(way, world, train, tmp_path, fault_table):
    alone = {"lora_enable": False, "tune_mm_mlp_adapter": True} if way == "projector" else {}
    train(tmp_path / "s", **{**SIX, "save_steps": 1}, save_total_limit=2, **alone)
    left = sorted(path.name for path in (tmp_path / "s").glob("*checkpoint-*"))
    assert left == ["checkpoint-5", "checkpoint-6"] and not (tmp_path / "s" / UNFINISHED).exists()
    merged = merge(str(tmp_path / "s" / "checkpoint-5"), str(world.base()), str(tmp_path / "merged"))
    fault_table("checkpoint-N merged, older ones pruned", 1, int((merged / "model.safetensors").is_file()))


def test_what_was_set_aside_is_told_once(tmp_path):
    (tmp_path / UNFINISHED / "checkpoint-4").mkdir(parents=True)
    found = look(tmp_path)
    assert found.last is None and found.unfinished == ("checkpoint-4",)
    lines = set_aside(tmp_path, found)
    assert lines == [
        "checkpoint-4 was being written when the run ended; the run begins anew",
        "checkpoints that were not used: 1",
    ]
    assert set_aside(tmp_path, look(tmp_path)) == [] and look(tmp_path / "gone").last is None
