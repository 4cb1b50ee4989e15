"""`--ego2exo_max_bad N`: a sample that cannot be read trains nothing and is counted once over all processes."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.training.unreadable_samples import SKIPPED, unreadable_error, worker_errors

from ..conftest import losses
from .distillation import PLAIN, assert_same_gradients, distilling_samples, history, recorded_gradients, write_json

KL = {"ego2exo_kd_weight": 0.7}
BROKEN = b"\0\0\0 ftypisom" + bytes(3000)


@pytest.fixture
def videos(world, tmp_path):
    """The world's clips beside some that no decoder reads."""
    folder = tmp_path / "videos"
    shutil.copytree(world.videos, folder)
    for name in ("broken.mp4", "broken2.mp4"):
        (folder / name).write_bytes(BROKEN)
    return folder


def with_bad(world, *views):
    """Samples of which some have a broken view: each an index and its key."""
    samples = distilling_samples(world, 4)
    for (index, view), name in zip(views, ("broken.mp4", "broken2.mp4"), strict=False):
        samples[index][view] = name
    return samples


@pytest.fixture
def run(videos, train, tmp_path):
    """A run on samples; LoRA starts the same each time."""

    def go(name, samples, **flags):
        data = write_json(tmp_path / f"{name}.json", samples)
        torch.manual_seed(0)
        values = {"data_path": data, "video_folder": videos, "num_train_epochs": 1, **PLAIN, **flags}
        return train(tmp_path / name, **values)

    return go


@pytest.mark.parametrize(
    ("error", "decoding"),
    [(OSError("cut off"), True), (RuntimeError("no stream"), True), (None, True), (KeyError("from"), False),
     (NameError("name 'VideoReader' is not defined"), False)],
)  # fmt: skip
def test_only_decoders_blame_the_file(error, decoding):
    dataset = SimpleNamespace(list_data_dict=[{"id": 7, "video": "a.mp4"}], data_args=SimpleNamespace(video_folder="v"))
    found = unreadable_error(dataset, 0, error)
    assert "v/a.mp4" in found.given and ("decode" in found.allowed) == ("fix the file" in found.remedy) == decoding


def test_its_row_trains_nothing(run, world, monkeypatch, capfd, tmp_path):
    """Neither view of a pair does: the gradients are those of a file without the sample."""
    samples = with_bad(world, (2, "ego_video"))
    with recorded_gradients(monkeypatch) as steps:
        without = run("without", [*samples[:2], samples[3]], max_steps=1, **KL)
        trainer = run("bad", samples, max_steps=1, ego2exo_max_bad=1, dataloader_num_workers=1, **KL)
    assert_same_gradients(steps[1], steps[0])
    for name in ("loss", "loss_ce", "loss_kl", "kl_tokens", "answer_tokens"):
        assert history(trainer, name) == pytest.approx(history(without, name), rel=1e-5), name
    assert "skipped, 1 of at most 1: sample 2" in capfd.readouterr().out
    line = json.loads((tmp_path / "bad" / "unreadable.jsonl").read_text())
    assert line["index"] == 2 and line["ego_video"].endswith("broken.mp4") and "is no video file" in line["reason"]
    assert all(Path(line[name]).parent == tmp_path / "videos" for name in ("video", "ego_video"))
    assert history(trainer, "unreadable") == [1]
    row, last = trainer.train_dataset[2], trainer.train_dataset[3]  # it is not replaced by another sample
    text = trainer.train_dataset.tokenizer.decode([i for i in row["input_ids"].tolist() if i >= 0])
    assert "moves" not in text and (row["labels"] == -100).all() and row[SKIPPED]["index"] == 2
    assert SKIPPED not in last and trainer.train_dataset.list_data_dict[2] == samples[2]


def test_an_image_counts_once_in_all_epochs(run, world, tmp_path, capfd):
    """Also where a batch of one is the sample alone."""
    (tmp_path / "bad.png").write_bytes(b"no picture")
    samples = distilling_samples(world)
    samples[1] = {"id": "bad", "image": "bad.png", "conversations": samples[1]["conversations"], "replay": True}
    flags = {"num_train_epochs": 3, "per_device_train_batch_size": 1, "ego2exo_max_bad": 1, "image_folder": tmp_path}
    trainer = run("s", samples, **flags, **KL)
    assert history(trainer, "unreadable") == [1] and trainer.skipped[1]["image"] == str(tmp_path / "bad.png")
    assert losses(trainer).count(0.0) == 3 < len(losses(trainer)) == 12 and all(map(math.isfinite, losses(trainer)))
    assert capfd.readouterr().out.count("skipped, 1 of at most 1") == 1


def test_one_more_than_allowed_stops_the_run(run, world, tmp_path):
    samples, folder = with_bad(world, (0, "video"), (3, "ego_video")), tmp_path / "videos"
    with pytest.raises(Ego2ExoError) as caught:
        run("s", samples, ego2exo_max_bad=1, **KL)
    given, allowed = caught.value.given, caught.value.allowed
    assert "2 samples cannot be read" in given and allowed == "at most 1 (--ego2exo_max_bad)"
    assert f"sample 0 (id '0'): video {folder}/broken.mp4, ego_video {folder}/{samples[0]['ego_video']}: " in given
    assert f"sample 3 (id '3'): video {folder}/{samples[3]['video']}, ego_video {folder}/broken2.mp4: " in given
    assert not list((tmp_path / "s").glob("*.safetensors")) and not (tmp_path / "s" / "config.json").exists()


def test_a_worker_that_dies_is_an_error_with_a_remedy():
    with pytest.raises(Ego2ExoError, match="a process that reads samples has died"), worker_errors():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    with pytest.raises(RuntimeError, match="other"), worker_errors():
        raise RuntimeError("other")


@pytest.mark.slow
def test_two_processes(run, videos, world, tmp_path, monkeypatch):
    """As one, with a bad sample in one of them, and an epoch that is shorter than the accumulation."""
    samples = with_bad(world, (2, "ego_video"))
    flags = {**KL, "max_steps": 1, "ego2exo_max_bad": 1}
    with recorded_gradients(monkeypatch) as steps:
        whole = run("one", samples, **flags)
    flags |= {**PLAIN, "data_path": tmp_path / "one.json", "video_folder": videos, "ddp_backend": "gloo"}
    flags |= {"per_device_train_batch_size": 1, "dataloader_num_workers": 1}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.host.training.distillation_worker", str(tmp_path)]
    command += world.arguments(tmp_path / "two", **flags, gradient_accumulation_steps=3)
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    for rank in (0, 1):
        assert_same_gradients(torch.load(tmp_path / f"gradients-{rank}.pt")[0], steps[0])
    assert done.stdout.count("1 unreadable sample(s) skipped") == 1
    state = json.loads((tmp_path / "two" / "trainer_state.json").read_text())["log_history"]
    assert [entry["unreadable"] for entry in state if "unreadable" in entry] == [1]
    for name in ("loss", "loss_ce", "loss_kl", "kl_tokens", "answer_tokens", "supervised_share"):
        assert [e[name] for e in state if name in e] == pytest.approx(history(whole, name), rel=1e-3), name
