"""A decoder that hangs or crashes stops training by name, or the clip is skipped."""

import shutil

import pytest

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.video import reader
from llava_ego2exo.video.worker import WorkerPool

from ...decoders import failing_decoder
from ..training.distillation import PLAIN, distilling_samples, write_json


def test_training_stops_by_name_or_skips_the_pair(world, train, tmp_path, capfd, monkeypatch):
    failing_decoder(monkeypatch)
    videos = shutil.copytree(world.videos, tmp_path / "videos")
    samples = distilling_samples(world, 4)

    def run(fault, **flags):
        shutil.copy(videos / samples[1]["video"], videos / f"{fault}.mp4")
        data = write_json(tmp_path / f"{fault}.json", [{**samples[0], "video": f"{fault}.mp4"}, *samples[1:]])
        train(
            tmp_path / fault, data_path=data, video_folder=videos, num_train_epochs=1, ego2exo_video_limit_s=1,
            dataloader_num_workers=1, **{**PLAIN, **flags},
        )  # fmt: skip

    with WorkerPool("av") as pool:
        monkeypatch.setattr(reader, "_POOL", pool)
        with pytest.raises(Ego2ExoError, match="does-hang.mp4 does not decode within 1 s"):
            run("does-hang")
        capfd.readouterr()
        run("does-crash", ego2exo_max_bad=1)
        assert "does-crash.mp4 crashes the decoder (exit code -11)" in "".join(capfd.readouterr())
