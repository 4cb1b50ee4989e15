"""The video reader against its rule, and against LLaVA-NeXT's own reader where that is installed."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.video import read_video, sample_indices, time_instruction
from tests.videos import render_clip

pytest.importorskip("av", reason="PyAV is not installed")


@given(st.integers(1, 400), st.floats(0.4, 60), st.integers(1, 4), st.integers(0, 64), st.booleans())
def test_indices_are_in_the_video_and_bounded(total, fps, wanted, upbound, force):
    indices = sample_indices(total, fps, wanted, upbound, force)
    assert indices == sorted(indices) and 0 <= indices[0] and indices[-1] < total
    if upbound:
        assert len(indices) <= upbound
        assert not force or len(indices) == upbound


@pytest.fixture
def clip(tmp_path):
    render_clip(tmp_path / "a.mp4", "red", "left", frames=24, rate=4)
    return str(tmp_path / "a.mp4")


def test_one_frame_a_second(clip):
    found = read_video(clip)
    assert found.frames.shape == (6, 64, 64, 3) and found.duration == pytest.approx(6)
    assert found.times == pytest.approx([0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"fps": -1}, {"frames_upbound": -3}])
def test_numbers_out_of_range_are_not_the_videos_fault(wrong, clip):
    with pytest.raises(Ego2ExoError) as caught:
        read_video(clip, **wrong)
    assert caught.value.given == " ".join(map(str, *wrong.items()))


@pytest.mark.parametrize(("upbound", "force"), [(0, False), (8, True)])
def test_equal_to_llava_next(clip, upbound, force, real_videos):
    pytest.importorskip("decord", reason="decord is not installed")
    utils = pytest.importorskip("llava.utils", reason="no llava")
    if not hasattr(utils, "process_video_with_decord"):
        pytest.skip("llava-torch has no video reader")
    for path in (clip, str(real_videos / "flipping_a_pancake.mkv")):
        args = SimpleNamespace(video_fps=1, frames_upbound=upbound, force_sample=force)
        frames, duration, times, count = utils.process_video_with_decord(path, args)
        ours = read_video(path, frames_upbound=upbound, force_sample=force)
        assert np.array_equal(frames, ours.frames) and duration == ours.duration and count == len(ours.times)
        if upbound and (force or count == upbound):  # its times of unbounded frames are frame numbers over a step
            assert f"located at {times}." in time_instruction(ours)
