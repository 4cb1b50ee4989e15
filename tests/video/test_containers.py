"""Every container and codec gives the frames that it says, at their times: whole, in parts, and cut."""

import struct

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")

from llava_ego2exo.distill.pairs.cutter import Cut, make  # noqa: E402
from llava_ego2exo.errors import Ego2ExoError  # noqa: E402
from llava_ego2exo.video import VideoLimits, frames, read_video, video_seconds  # noqa: E402
from llava_ego2exo.video.probe import probe  # noqa: E402

from ..distill.videos import number, numbers, render  # noqa: E402

H264 = {"codec": "libx264", "preset": "veryfast", "bf": "2"}
HEVC = {"codec": "libx265", "preset": "ultrafast", "x265-params": "log-level=none:bframes=2:keyint=25"}
AV1 = {"codec": "libsvtav1", "preset": "12", "svtav1-params": "keyint=25"}
VP8 = {"codec": "libvpx", "deadline": "realtime"}
VP9 = {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8"}
MPEG = {"codec": "mpeg2video", "bf": "2", "b": "2000000"}
BATTERY = {
    "avi": [H264, {"codec": "mpeg4", "bf": "2"}, {"codec": "mjpeg", "pix_fmt": "yuvj420p"}, {"codec": "ffv1"},
            {"codec": "wmv2"}],
    "mp4": [H264, {**H264, "x264-params": "open-gop=1"}, HEVC, AV1, VP9, MPEG, {"codec": "mpeg4", "bf": "2"}],
    "mov": [H264, HEVC, {"codec": "prores_ks", "pix_fmt": "yuv422p10le"}],
    "mkv": [H264, HEVC, AV1, VP8, MPEG, {"codec": "ffv1"}],
    "webm": [VP8, VP9, AV1, {**VP9, "muxing": {"live": "1"}}],  # live: without durations, as browsers record
    "ts": [H264, HEVC, MPEG, {"codec": "mpeg4", "bf": "2"}],
    "m2ts": [H264],
    "mpg": [MPEG, {**MPEG, "codec": "mpeg1video"}, {**H264, "container": "mpeg"}],
    "vob": [MPEG],
    "m4v": [{"codec": "mpeg4", "bf": "2", "container": "mp4"}],
    "3gp": [H264],
    "flv": [H264, {"codec": "flv"}],
    "ogv": [VP8],
    "wmv": [{"codec": "wmv2"}],
}  # fmt: skip
SECONDS, RATE = 6, 10  # MPEG-1 and 2 allow no rate of 10; there it is 30
SEGMENT = (2.35, 4.1)


def _cases():
    for suffix, ways in BATTERY.items():
        for place, way in enumerate(ways):
            yield pytest.param(suffix, way, id=f"{suffix}-{way['codec']}-{place}")


@pytest.mark.parametrize(("suffix", "way"), _cases())
def test_frames_are_those_that_it_says(suffix, way, tmp_path):
    if way["codec"] not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {way['codec']}")
    path = str(render(tmp_path / f"a.{suffix}", SECONDS, rate=30 if way["codec"].startswith("mpeg") else RATE, **way))
    shown = numbers(path)
    rate = len(shown) / SECONDS
    assert shown == list(range(len(shown)))
    for sampling in ({}, {"frames_upbound": 7, "force_sample": True}, {"fps": 4, "frames_upbound": 200}):
        clip = read_video(path, **sampling)
        assert [number(frame) for frame in clip.frames] == clip.indices and clip.indices[0] == 0
        assert clip.times == pytest.approx([index / rate for index in clip.indices], abs=1e-6)
        assert clip.duration == pytest.approx(SECONDS) and clip.rate == pytest.approx(rate)
    first, last = (-(-int(second * 1000) * int(rate) // 1000) for second in SEGMENT)
    part = read_video(path, 4, 5, True, *SEGMENT)
    assert [number(frame) for frame in part.frames] == part.indices
    assert (part.indices[0], part.indices[-1], part.duration) == (first, last - 1, pytest.approx((last - first) / rate))
    found = probe(path)
    assert (found.error, found.frames, found.duration_s) == ("", len(shown), pytest.approx(SECONDS))
    assert video_seconds(path) == pytest.approx(SECONDS)
    assert make(Cut(path, str(tmp_path / "cut.mp4"), *SEGMENT)) == "made"
    assert numbers(tmp_path / "cut.mp4") == list(range(first, last))


def test_far_frames_are_found_by_seeking(tmp_path):
    """Few frames are decoded, also where an index is missing; a seek that lands elsewhere changes no frame."""

    def read(path, wanted):
        decoded = []
        found = frames.use_video(
            str(path), VideoLimits(), lambda video: dict(video.frames(wanted)), lambda: decoded.append(1)
        )
        assert [number(frames.upright(found[index])) for index in wanted] == wanted
        return len(decoded)

    for name in ("a.mp4", "a.mkv", "a.ts"):
        path = render(tmp_path / name, 60, **H264)
        assert read(path, [3, 310, 580, 599]) < 150


def test_what_an_edit_list_hides_is_never_shown(tmp_path):
    """As `ffmpeg -ss 2.75 -c copy` writes: packets from the key frame on, the first of them before second 0."""
    source, path = render(tmp_path / "s.mp4", 8, bf="0"), str(tmp_path / "e.mp4")
    with av.open(str(source)) as file, av.open(path, "w", options={"avoid_negative_ts": "disabled"}) as out:
        stream = file.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in file.demux(stream):
            if packet.pts is not None and round(packet.pts * packet.time_base * 10) >= 25:
                shift = int(2.8 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                out.mux(packet)
    clip = read_video(path, fps=5)
    assert [number(frame) for frame in clip.frames] == list(range(28, 80, 2)) and clip.duration == pytest.approx(5.2)
    assert clip.times == pytest.approx([index / 10 for index in range(0, 52, 2)])
    part = read_video(path, fps=10, start_s=1.0, end_s=2.0)
    assert [number(frame) for frame in part.frames] == list(range(38, 48))
    assert probe(path).error == "" and probe(path).frames == 52
    make(Cut(path, str(tmp_path / "cut.mp4"), 1.0, 2.0))
    assert numbers(tmp_path / "cut.mp4") == list(range(38, 48))


def test_frames_for_reference_alone_are_not_counted(tmp_path):
    """As libvpx writes them: packets of VP8 without the bit that shows them."""
    source, path = render(tmp_path / "s.webm", 6, **VP8), str(tmp_path / "h.webm")
    with av.open(str(source)) as file, av.open(path, "w") as out:
        stream = file.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for place, packet in enumerate(packet for packet in file.demux(stream) if packet.size):
            content = bytearray(packet)
            content[0] &= 0xEF if place % 10 == 7 else 0xFF
            new = av.Packet(bytes(content))
            new.pts, new.dts, new.time_base, new.is_keyframe = (
                packet.pts,
                packet.dts,
                packet.time_base,
                packet.is_keyframe,
            )
            new.stream = copy
            out.mux(new)
    shown = [index for index in range(60) if index % 10 != 7]
    clip = read_video(path, 10, 200)
    assert [number(frame) for frame in clip.frames] == [shown[index] for index in clip.indices]
    assert video_seconds(path) == pytest.approx(6, abs=0.01) and probe(path).frames == len(shown)


@pytest.mark.parametrize("suffix", ["mkv", "flv"])
def test_times_of_a_header_that_claims_1000_frames_a_second(suffix, tmp_path):
    steady = str(render(tmp_path / f"s.{suffix}", 0, times=range(0, 8250, 33), **H264))
    clip = read_video(steady)
    assert clip.indices == [number(frame) for frame in clip.frames] == list(range(0, 250, 30))
    assert clip.duration == pytest.approx(8.25) and clip.rate == pytest.approx(1000 / 33, abs=0.01)
    jumps = [0, 40, 90, 1000, 1020, 1900, 4000, 4020, 4040, 6500]
    uneven = str(render(tmp_path / f"u.{suffix}", 0, times=jumps, **H264))
    clip = read_video(uneven)
    assert clip.indices == [number(frame) for frame in clip.frames] == [0, 3, 5, 6, 8]
    assert clip.times == pytest.approx([jumps[index] / 1000 for index in clip.indices])
    assert read_video(uneven, frames_upbound=3, force_sample=True).indices == [0, 5, 9]
    assert read_video(uneven, 50, start_s=1.0, end_s=4.0).indices == [3, 4, 5]
    make(Cut(uneven, str(tmp_path / "cut.mp4"), 1.0, 4.02))
    assert read_video(str(tmp_path / "cut.mp4"), fps=50).times == pytest.approx([0, 0.02, 0.9, 3.0])


def test_the_stream_that_players_choose_is_bounded_probed_and_read(tmp_path):
    """A small first stream, and a large one that is marked as the default."""
    path = str(tmp_path / "two.mkv")
    with av.open(path, "w") as out:
        streams = [out.add_stream("libx264", rate=10, options={"preset": "ultrafast"}) for _ in range(2)]
        for stream, side in zip(streams, (64, 320), strict=True):
            stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
            stream.disposition = av.stream.Disposition.default if side == 320 else av.stream.Disposition(0)
        for _ in range(20):
            for stream in streams:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((stream.height,) * 2 + (3,), np.uint8))))
        for stream in streams:
            out.mux(stream.encode())
    assert read_video(path).frames.shape == (2, 320, 320, 3) and probe(path).width == 320
    with pytest.raises(Ego2ExoError, match="320 x 320"):
        read_video(path, limits=VideoLimits(video_max_megapixels=0.1))


@pytest.mark.parametrize(
    ("matrix", "show"),
    [
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),  # a selfie camera
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),  # turned and mirrored
        ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
    ],
)
def test_turned_and_mirrored_as_players_show_it(matrix, show, tmp_path):
    path = render(tmp_path / "a.mp4", 1, **H264)
    stored = read_video(str(path)).frames[0]
    data, one = bytearray(path.read_bytes()), 1 << 16
    place = data.index(b"tkhd") + 44
    a, b, c, d = matrix
    data[place : place + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    assert np.array_equal(read_video(str(path)).frames[0], show(stored))
    make(Cut(str(path), str(tmp_path / "cut.mp4"), 0, 1))
    cut = read_video(str(tmp_path / "cut.mp4")).frames[0].astype(int)
    assert cut.shape == show(stored).shape and np.abs(cut - show(stored)).mean() < 6
