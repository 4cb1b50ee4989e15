"""Runs that are killed, disks that are full, checkpoints that are damaged: the last complete one is always there."""

import itertools
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.merge import merge
from llava_ego2exo.host.resume import checkpoints, state
from llava_ego2exo.host.resume.checkpoints import MANIFEST, UNFINISHED, scan

from .test_resume import PROJECTOR, logged, saved_log, saved_weights, weights

SIX = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 2}


def killed_behind(command, step, wait):
    """Start a command, and kill it a moment behind its n-th step."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        steps = (line for line in process.stdout if line.startswith("{'loss'"))
        next(itertools.islice(steps, step - 1, None), None)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
    return process.returncode


@pytest.mark.slow
def test_a_run_killed_at_a_random_step_ends_as_if_it_had_not_been(world, train, tmp_path):
    """The real command, killed by SIGKILL and started again, beside an uninterrupted run in this process."""
    flags = {"max_steps": 12, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 2}
    flags |= {"ego2exo_check_saved": True, "save_total_limit": 2}
    command = [sys.executable, "-m", "llava_ego2exo.train", *world.arguments(tmp_path / "cut", **flags)]
    step, wait = random.randint(3, 10), random.random() * 0.05
    assert killed_behind(command, step, wait) == -signal.SIGKILL, f"behind step {step}, {wait:.3f} s"
    again = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    train(tmp_path / "whole", **flags)
    log = again.communicate()[0]
    assert again.returncode == 0, log[-3000:]
    assert "resuming" in log, f"killed behind step {step}"
    found, expected = saved_weights(tmp_path / "cut"), saved_weights(tmp_path / "whole")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert saved_log(tmp_path / "cut") == saved_log(tmp_path / "whole")
    left = sorted(path.name for path in (tmp_path / "cut").glob("*checkpoint-*"))
    assert left == ["checkpoint-10", "checkpoint-12"] and not (tmp_path / "cut" / UNFINISHED).exists()
    merged = merge(str(tmp_path / "cut" / "checkpoint-10"), str(world.base()), str(tmp_path / "merged"))
    assert (merged / "model.safetensors").is_file()


EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
_watched = []


def _hook(event, arguments):
    if _watched and event in EVENTS:
        _watched[-1](event, arguments)


sys.addaudithook(_hook)  # can never be removed, and does nothing while `_watched` is empty


def test_a_checkpoint_cut_at_any_moment_is_never_taken_for_complete(train, tmp_path, monkeypatch):
    """Copies of the run's folder at each opening, renaming and deletion from checkpoint-3 to checkpoint-6."""
    out, snapshots = tmp_path / "s", tmp_path / "snapshots"
    snapshots.mkdir()

    def snap(_event, arguments):
        if arguments and isinstance(arguments[0], (str, Path)) and str(out) in str(arguments[0]):
            watch, _watched[:] = _watched[:], []
            shutil.copytree(out, snapshots / f"{len(os.listdir(snapshots)):03d}")
            _watched[:] = watch

    commit = checkpoints.commit

    def counting(part, target, run):
        commit(part, target, run)
        _watched[:] = [snap] if target.name == "checkpoint-3" else []

    monkeypatch.setattr(state, "commit", counting)
    train(out, **SIX, **PROJECTOR)
    _watched[:] = []
    taken = sorted(snapshots.iterdir())
    assert len(taken) >= 8
    files = {path.name: path.stat().st_size for path in (out / "checkpoint-6").iterdir()}
    for snapshot in taken:
        for cut in [None, *(path for path in (snapshot / UNFINISHED).rglob("*") if path.is_file())]:
            if cut is not None:
                os.truncate(cut, cut.stat().st_size // 2)
            found = scan(snapshot)
            assert found.last is not None and not found.damaged, (snapshot, cut)
            if found.last.name == "checkpoint-6":
                assert {path.name: path.stat().st_size for path in found.last.iterdir()} == files


def test_a_damaged_checkpoint_is_renamed_and_the_one_before_resumed(train, tmp_path, capsys):
    out = tmp_path / "s"
    whole = train(out, **SIX, **PROJECTOR)
    last, kept = out / "checkpoint-6", tmp_path / "kept"
    shutil.copytree(last, kept)
    for number, file in enumerate(sorted(kept.iterdir())):
        damaged = last / file.name
        if number % 2:
            os.truncate(damaged, file.stat().st_size // 2)
        else:
            damaged.unlink()
        found = scan(out, ("mm_projector.bin", "optimizer.pt"))
        if file.name == MANIFEST and not damaged.exists():  # as LLaVA alone writes one
            assert found.last == last
        else:
            assert [path.name for path in found.complete] == ["checkpoint-3"] and found.damaged[0][0] == last, file.name
        shutil.copy(file, damaged)
    (last / "mm_projector.bin").unlink()
    capsys.readouterr()
    again = train(out, **SIX, **PROJECTOR)
    assert "mm_projector.bin" in capsys.readouterr().out and (out / "damaged-checkpoint-6").is_dir()
    assert logged(again) == logged(whole)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(again).items())
    for path in ("checkpoint-3", "checkpoint-6"):
        (out / path / "mm_projector.bin").unlink()
    with pytest.raises(Ego2ExoError) as error:
        train(out, **SIX, **PROJECTOR)
    assert "checkpoint-6" in error.value.given and "remove" in error.value.remedy


def error_in_child(work):
    """What a forked process raises: nothing that it does to its limits stays with this one."""
    reader, writer = multiprocessing.Pipe(False)

    def run():
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        try:
            work()
        except Ego2ExoError as error:
            writer.send((error.given, error.remedy))
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(120)
    assert reader.poll(), process.exitcode
    return reader.recv()


@pytest.mark.parametrize("limit", [3000, 100], ids=["torch", "json"])
def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(limit, train, tmp_path, monkeypatch):
    """The operating system itself refuses bytes (RLIMIT_FSIZE): torch drops its error number, Python does not."""
    commit = checkpoints.commit

    def limited(part, target, run):
        commit(part, target, run)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    monkeypatch.setattr(state, "commit", limited)
    given, remedy = error_in_child(lambda: train(tmp_path / "s", **SIX, **PROJECTOR))
    assert "could not be written" in given and "checkpoint-3" in given
    assert "free some space" in remedy and "checkpoint-3" in remedy
    assert scan(tmp_path / "s").last == tmp_path / "s" / "checkpoint-3" and not (tmp_path / "s" / UNFINISHED).exists()
