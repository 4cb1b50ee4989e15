"""A decoder that hangs or crashes stops `teach` and training by name, or the clip is skipped."""

import dataclasses
import shutil

import pytest

from llava_ego2exo.distill.pairs.file import read_pairs
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.video import reader
from llava_ego2exo.video.worker import WorkerPool

from ...decoders import failing_decoder
from ..training.distillation import PLAIN, distilling_samples, write_json
from .asking import error_of
from .test_teach import Setting

pytestmark = pytest.mark.usefixtures("registered", "failing")
HANGS, CRASHES = "does-hang.mp4 does not decode within 1 s", "does-crash.mp4 crashes the decoder (exit code -11)"


@pytest.fixture
def failing(monkeypatch):
    """Decoders that fail if a file's name says so."""
    pytest.importorskip("decord", reason="decord is not installed")
    failing_decoder(monkeypatch)
    with WorkerPool("av", "decord") as pool:
        monkeypatch.setattr(reader, "_POOL", pool)
        yield


def test_teach_answers_the_other_clips(tmp_path, world, capsys):
    setting = Setting(tmp_path, world)
    setting.render()
    first, *rest = read_pairs(setting.pairs)
    file = shutil.copy(first.ego, setting.videos / "does-hang.mp4")
    setting.change(dataclasses.replace(first, ego=str(file)), *rest)
    assert setting.teach(video_limit_s=1) == 1
    assert HANGS in error_of(capsys) and {answer.segment for answer in setting.answers()} == {"s1", "s2", "s3", "s4"}


def test_training_stops_by_name_or_skips_the_pair(world, train, tmp_path, capfd):
    videos = shutil.copytree(world.videos, tmp_path / "videos")
    samples = distilling_samples(world, 4)

    def run(fault, **flags):
        shutil.copy(videos / samples[1]["video"], videos / f"{fault}.mp4")
        data = write_json(tmp_path / f"{fault}.json", [{**samples[0], "video": f"{fault}.mp4"}, *samples[1:]])
        train(
            tmp_path / fault, data_path=data, video_folder=videos, num_train_epochs=1, ego2exo_video_limit_s=1,
            dataloader_num_workers=1, **{**PLAIN, **flags},
        )  # fmt: skip

    with pytest.raises(Ego2ExoError) as stopped:
        run("does-hang")
    assert HANGS in str(stopped.value)
    capfd.readouterr()
    run("does-crash", ego2exo_max_bad=1)
    assert CRASHES in "".join(capfd.readouterr())
