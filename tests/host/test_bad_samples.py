"""`--ego2exo_max_bad N`: a sample that cannot be read trains nothing, is counted once over all processes, and told."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.bad_samples import DROPPED, workers_told
from llava_ego2exo.host.bad_tally import BadTally
from llava_ego2exo.runs.ranks import Ranks

from .conftest import losses
from .distilling import PLAIN, assert_same_gradients, distilling_samples, recorded_gradients, write_json
from .test_resume import weights

KL = {"ego2exo_kd_weight": 0.7}
BROKEN = b"\0\0\0 ftypisom" + bytes(3000)
VIEWS = ("video", "ego_video")


@pytest.fixture
def videos(world, tmp_path):
    """The world's clips beside some that no decoder reads."""
    folder = tmp_path / "videos"
    shutil.copytree(world.videos, folder)
    for name in ("broken.mp4", "broken2.mp4"):
        (folder / name).write_bytes(BROKEN)
    return folder


def with_bad(world, **bad):
    """Samples of which some have a broken view: index -> its key."""
    samples = distilling_samples(world, 4)
    for number, (index, view) in enumerate(bad.items()):
        samples[int(index[1:])][view] = ("broken.mp4", "broken2.mp4")[number % 2]
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


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.fault
@pytest.mark.parametrize("view", VIEWS)
def test_its_row_trains_nothing(view, run, world, monkeypatch, capfd, tmp_path, fault_table):
    """Neither view of a pair does: the gradients are those of a file without the sample."""
    samples = with_bad(world, s2=view)
    with recorded_gradients(monkeypatch) as steps:
        without = run("without", [*samples[:2], samples[3]], max_steps=1, **KL)
        trainer = run("bad", samples, max_steps=1, ego2exo_max_bad=1, dataloader_num_workers=1, **KL)
    assert_same_gradients(steps[1], steps[0])
    for name in ("loss", "loss_ce", "loss_kl", "kl_tokens", "answer_tokens"):
        assert logged(trainer, name) == pytest.approx(logged(without, name), rel=1e-5), name
    told = capfd.readouterr().out
    assert "left out, 1 of at most 1: sample 2" in told and "1 sample(s) were left out because they cannot" in told
    line = json.loads((tmp_path / "bad" / "unreadable.jsonl").read_text())
    assert line["index"] == 2 and line["step"] == 1 and line[view].endswith("broken.mp4")
    assert all(Path(line[name]).parent == tmp_path / "videos" for name in VIEWS) and "does not decode" in line["reason"]
    assert logged(trainer, "unreadable") == [1]
    fault_table(f"a training run with a {view} that does not decode, --ego2exo_max_bad 1", 1, 1)


def test_it_counts_once_in_all_epochs(run, world, capfd):
    trainer = run(
        "s", with_bad(world, s1="video"), num_train_epochs=3, per_device_train_batch_size=2, ego2exo_max_bad=1
    )
    assert logged(trainer, "unreadable") == [1] and trainer.state.global_step == 6
    assert capfd.readouterr().out.count("left out, 1 of at most 1") == 1
    assert all(math.isfinite(loss) and loss > 0 for loss in losses(trainer))


def test_one_more_than_allowed_stops_the_run(run, world, tmp_path):
    samples = with_bad(world, s0="video", s3="ego_video")
    with pytest.raises(Ego2ExoError) as caught:
        run("s", samples, ego2exo_max_bad=1, **KL)
    text, folder = str(caught.value), tmp_path / "videos"
    assert "2 samples cannot be read" in text and "at most 1 (--ego2exo_max_bad)" in text
    assert f"sample 0 (id '0'): video {folder}/broken.mp4, ego_video {folder}/{samples[0]['ego_video']}: " in text
    assert f"sample 3 (id '3'): video {folder}/{samples[3]['video']}, ego_video {folder}/broken2.mp4: " in text
    assert not list((tmp_path / "s").glob("*.safetensors")) and not (tmp_path / "s" / "config.json").exists()


@pytest.mark.fault
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("kl", [{}, KL], ids=["ce", "kl"])
def test_a_batch_of_nothing_else(accumulation, kl, run, world, fault_table):
    """Batches of one: some hold the bad sample alone."""
    trainer = run(
        "s", with_bad(world, s1="video"), ego2exo_max_bad=1, num_train_epochs=2, per_device_train_batch_size=1,
        gradient_accumulation_steps=accumulation, **kl,
    )  # fmt: skip
    found = losses(trainer)
    assert len(found) == 8 // accumulation and all(map(math.isfinite, found))
    assert found.count(0.0) == (2 if accumulation == 1 else 0)
    assert all(bool(torch.isfinite(value).all()) for value in weights(trainer).values())
    fault_table("batches of samples that cannot be read, alone or with accumulation", 2, 2)


def test_a_run_that_can_read_nothing_saves_no_model(run, world, tmp_path):
    samples = with_bad(world, s0="video", s1="video", s2="ego_video", s3="video")
    with pytest.raises(Ego2ExoError, match="no sample of this run can be read, and the model is not saved"):
        run("s", samples, ego2exo_max_bad=4, **KL)
    assert not (tmp_path / "s" / "config.json").exists()


def test_a_resumed_run_counts_on(run, world, tmp_path):
    flags = {
        "num_train_epochs": 3, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2,
        "ego2exo_max_bad": 1,
    }  # fmt: skip
    samples = with_bad(world, s1="video")
    whole = run("whole", samples, **flags)
    cut = tmp_path / "cut"
    cut.mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", cut / "checkpoint-2")
    line = json.loads((tmp_path / "whole" / "unreadable.jsonl").read_text())
    later = {**line, "index": 3, "step": 3}  # met behind the checkpoint by the run that was killed
    (cut / "unreadable.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (line, later)) + '{"ind')
    resumed = run("cut", samples, **flags)
    assert losses(resumed) == losses(whole)
    assert list(resumed.bad.known) == list(whole.bad.known) == [1]
    assert (cut / "unreadable.jsonl").read_text() == (tmp_path / "whole" / "unreadable.jsonl").read_text()


def test_an_image_that_cannot_be_read(run, world, tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 28)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    turns = distilling_samples(world)[0]["conversations"]
    entries = [{"id": name, "image": f"{name}.png", "conversations": turns} for name in ("good", "bad")]
    trainer = run("s", [*distilling_samples(world), *entries], image_folder=tmp_path, ego2exo_max_bad=1)
    assert trainer.bad.known[5]["image"] == str(tmp_path / "bad.png")


def test_it_is_never_replaced(run, world):
    """Its row holds nothing of any sample, and the rows beside it are untouched."""
    samples = with_bad(world, s2="video")
    trainer = run("s", samples, ego2exo_max_bad=1, max_steps=1)
    data = trainer.train_dataset
    row, last = data[2], data[3]
    text = data.tokenizer.decode([i for i in row["input_ids"].tolist() if i >= 0])
    assert "moves" not in text and (row["labels"] == -100).all() and row[DROPPED]["index"] == 2
    assert (last["labels"] != -100).any() and DROPPED not in last and data.list_data_dict[2] == samples[2]


def test_a_tally_of_several_processes(tmp_path):
    """Each process brings what it met; all of them know all, and one writes it."""

    class Two(Ranks):
        def gather(self, value):
            return [value, [bad(7)]] if self.rank == 0 else [[bad(3)], value]

    def bad(index):
        return {"index": index, "id": str(index), "video": f"{index}.mp4", "reason": "does not decode"}

    tallies = [BadTally(2, str(tmp_path), Two(rank, 2)) for rank in (0, 1)]
    tallies[0].take({DROPPED: [bad(3)]})
    tallies[1].take({DROPPED: [bad(7)]})
    found = [tally.settle(2, 5) for tally in tallies]
    assert found[0] == found[1] and "2 of at most 2: sample 7 (id '7'): video 7.mp4: does not decode" in found[0][1]
    assert [json.loads(line)["index"] for line in (tmp_path / "unreadable.jsonl").read_text().splitlines()] == [3, 7]
    for tally in tallies:
        tally.most = 1
        tally.take({DROPPED: [bad(3)]})
        with pytest.raises(Ego2ExoError, match="2 samples cannot be read"):
            tally.settle(1, 6)


def test_a_worker_that_dies_is_told():
    with pytest.raises(Ego2ExoError, match="a process that reads samples has died.*memory ran out"), workers_told():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    with pytest.raises(RuntimeError, match="other"), workers_told():
        raise RuntimeError("other")


@pytest.mark.slow
@pytest.mark.fault
def test_two_processes(run, videos, world, tmp_path, monkeypatch, fault_table):
    """The bad sample is one process's: its gradients and the count are those of one process."""
    samples = with_bad(world, s2="ego_video")
    flags = {**KL, "max_steps": 1, "ego2exo_max_bad": 1}
    with recorded_gradients(monkeypatch) as steps:
        whole = run("one", samples, **flags)
    flags |= {**PLAIN, "data_path": tmp_path / "one.json", "video_folder": videos, "ddp_backend": "gloo"}
    flags |= {"per_device_train_batch_size": 1, "dataloader_num_workers": 1}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.host.distilling_worker", str(tmp_path)]
    command += world.arguments(tmp_path / "two", **flags, gradient_accumulation_steps=2)
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    for rank in (0, 1):
        assert_same_gradients(torch.load(tmp_path / f"gradients-{rank}.pt")[0][0], steps[0])
    assert done.stdout.count("1 sample(s) were left out because they cannot be read") == 1
    history = json.loads((tmp_path / "two" / "trainer_state.json").read_text())["log_history"]
    assert [entry["unreadable"] for entry in history if "unreadable" in entry] == [1]
    assert [e["loss"] for e in history if "loss" in e] == pytest.approx(losses(whole), rel=1e-3)
    fault_table("an ego clip that does not decode, met by one of two processes, --ego2exo_max_bad 1", 1, 1)
