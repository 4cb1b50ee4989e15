"""A real ADL-X file, asked end to end on synthetic clips that are named as the file names its own."""

import os
from pathlib import Path

import pytest

from llava_ego2exo import cli
from llava_ego2exo.evaluation.benchmarks.registry import read_benchmark
from tests.videos import COLOURS, MOVES, render_clip

from .evaluation import Setting

DATA = Path(os.environ.get("EGO2EXO_SHARED", Path(__file__).parents[4] / "shared")) / "data" / "adlx"
LIMIT = 16


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no ADL-X files at {DATA} (set EGO2EXO_SHARED)")
def test_checked_whole_and_asked_end_to_end(tmp_path, world, capsys):
    benchmark, videos = "adlx-smarthome-ar", tmp_path / "clips"
    items = read_benchmark(benchmark, DATA).items
    videos.mkdir()
    for number, (colour, move) in enumerate(zip(COLOURS, MOVES, strict=True)):
        render_clip(tmp_path / f"kind{number}.mp4", colour, move, frames=4, seed=number)
    for number, video in enumerate(dict.fromkeys(item.video for item in items)):
        os.link(tmp_path / f"kind{number % 4}.mp4", videos / f"{Path(video).name.removesuffix('.mp4')}.mp4")
    check = ["eval", "--check", "--benchmark", benchmark, "--data", str(DATA), "--videos", str(videos)]
    assert cli.main(check) == 0
    assert f"{len(items)}" in capsys.readouterr().out
    setting = Setting(tmp_path, world, rows=[])
    flags = {"benchmark": benchmark, "data": DATA, "videos": videos, "batch_size": 8, "mode": "generate likelihood"}
    assert setting.eval(**flags, limit=LIMIT) == 0
    total = setting.row(category="all", mode="generate")
    assert total["n"] == LIMIT == total["parsed"] + total["unparsed"] and total["failed"] == 0
    assert setting.row(category="all", mode="likelihood")["parsed"] == LIMIT
    assert len(setting.results()) == 2 * LIMIT
