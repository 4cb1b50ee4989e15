"""The real ADL-X files, asked end to end on synthetic clips that are named as the files name theirs.

`EGO2EXO_ADLX_QUESTIONS=0` asks all questions (minutes); by default the first few dozen.
"""

import os
from pathlib import Path

import pytest

from llava_ego2exo import cli
from llava_ego2exo.evaluation.benchmarks.registry import read_benchmark
from tests.videos import COLOURS, MOVES, render_clip

from .evaluation import Setting

pytestmark = [pytest.mark.usefixtures("registered"), pytest.mark.slow]
DATA = Path(os.environ.get("EGO2EXO_SHARED", Path(__file__).parents[4] / "shared")) / "data" / "adlx"
LIMIT = int(os.environ.get("EGO2EXO_ADLX_QUESTIONS", "16"))


def named_clips(items, folder: Path) -> None:
    """A few different clips under all the names."""
    folder.mkdir()
    kinds = [folder / f"kind{number}.mp4" for number in range(4)]
    for number, file in enumerate(kinds):
        render_clip(file, list(COLOURS)[number], list(MOVES)[number], frames=4, seed=number)
    for number, video in enumerate(dict.fromkeys(item.video for item in items)):
        os.link(kinds[number % 4], folder / f"{Path(video).name.removesuffix('.mp4')}.mp4")
    for file in kinds:
        file.unlink()


@pytest.mark.parametrize("benchmark", ["adlx-charades-ar", "adlx-smarthome-ar"])
def test_checked_whole_and_one_asked_end_to_end(benchmark, tmp_path, world, capsys):
    if not DATA.is_dir():
        pytest.skip(f"no ADL-X files at {DATA} (set EGO2EXO_SHARED)")
    items = read_benchmark(benchmark, DATA).items
    videos = tmp_path / "clips"
    named_clips(items, videos)
    setting = Setting(tmp_path, world, rows=[])
    check = ["eval", "--check", "--benchmark", benchmark, "--data", str(DATA), "--videos", str(videos)]
    assert cli.main(check) == 0
    assert f"{len(items)}" in capsys.readouterr().out.replace(",", "")
    if benchmark != "adlx-smarthome-ar":
        return
    flags = {"benchmark": benchmark, "data": DATA, "videos": videos, "batch_size": 8, "mode": "generate likelihood"}
    assert setting.eval(**flags, limit=LIMIT) == 0
    asked = LIMIT or len(items)
    for mode in ("generate", "likelihood"):
        total = setting.row(category="all", mode=mode)
        assert total["n"] == asked == total["parsed"] + total["unparsed"] + total["failed"]
        assert total["failed"] == 0
    assert setting.row(category="all", mode="likelihood")["parsed"] == asked
    assert len(setting.results()) == 2 * asked
