"""What a request may hold: conversations, answers to choose from, pictures and videos."""

import base64
import io
import json

import pytest

pytest.importorskip("fastapi")
from PIL import Image

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.serving.media import clip_of
from llava_ego2exo.serving.protocol import ChatRequest, choice_of, conversation
from llava_ego2exo.serving.settings import ServeSettings


def picture(size=(8, 6), value=100):
    out = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def messages(*turns):
    return ChatRequest(model="m", messages=[{"role": role, "content": content} for role, content in turns]).messages


def part(kind, value):
    return {"type": kind, kind: value if kind == "text" else {"url": value}}


def test_a_conversation_has_one_video_and_ends_with_a_question():
    shown = [part("image_url", "a"), part("text", "What <image> now?"), part("image_url", "b")]
    asked = conversation(
        messages(("system", "Be brief."), ("user", shown), ("assistant", "It."), ("user", "And then?"))
    )
    assert asked.pictures == ["a", "b"] and asked.video is None and asked.system == "Be brief."
    assert asked.question == "And then?" and asked.earlier == [("What  now?", "It.")]
    for turns in (
        [("assistant", "x")],
        [("user", "x"), ("user", "y")],
        [("user", "x"), ("assistant", "y")],
        [("system", "x")],
        [("user", shown), ("assistant", "y"), ("user", shown)],
        [("user", [part("video_url", "a"), part("video_url", "b")])],
    ):
        with pytest.raises(Ego2ExoError):
            conversation(messages(*turns))


def test_choices_of_a_schema():
    def schema(value):
        return {"type": "json_schema", "json_schema": {"name": "a", "schema": value}}

    texts = {"type": "string", "enum": ["left", "right"]}
    assert choice_of(None) is None and choice_of({"type": "text"}) is None
    assert json.loads(choice_of(schema(texts)).content("left")) == "left"
    found = choice_of(schema({"type": "object", "properties": {"hand": texts}}))
    assert found.options == ("left", "right") and json.loads(found.content("right")) == {"hand": "right"}
    two = {"type": "object", "properties": {"a": texts, "b": texts}}
    for wrong in ({"type": "json_object"}, schema({"type": "string"}), schema(two), schema({"enum": [1, 2]})):
        with pytest.raises(Ego2ExoError, match="response_format"):
            choice_of(wrong)


def test_frames_are_one_video(tmp_path):
    settings, addresses = ServeSettings(), [picture(value=value) for value in (10, 20, 30)]
    clip = clip_of(addresses, None, settings, None, 3)
    assert clip.frames.shape == (3, 6, 8, 3) and clip.frames[:, 0, 0, 0].tolist() == [10, 20, 30]
    for pictures, video, allowed in (
        ([], None, "one video_url"),
        (addresses, "x.mp4", "one video_url"),
        (4 * [picture()], None, "at most 3"),
        ([picture(), picture((4, 4))], None, "one size"),
        (["data:image/png;base64,????"], None, "base64"),
        (["data:image/png;base64,aGVsbG8="], None, "JPEG"),
        (["data:image/png"], None, "base64,..."),
        (["http://127.0.0.1:1/a.png"], None, "--allow-http"),
        (["/etc/passwd"], None, "data:"),
        ([], "/etc/passwd", "--media"),
    ):
        with pytest.raises(Ego2ExoError) as error:
            clip_of(pictures, video, settings, None, 3)
        assert allowed in error.value.allowed, error.value
    with pytest.raises(Ego2ExoError, match="does not answer"):
        clip_of(["http://127.0.0.1:1/a.png"], None, ServeSettings(http=True), None, 3)


def test_files_are_below_media(tmp_path):
    (tmp_path / "in").mkdir()
    for file in ("in/a.mp4", "b.mp4"):
        (tmp_path / file).touch()
    (tmp_path / "in" / "link.mp4").symlink_to(tmp_path / "b.mp4")
    settings, read = ServeSettings(media=tmp_path / "in"), []
    clip_of([], "a.mp4", settings, read.append, 3)
    assert read == [str(tmp_path / "in" / "a.mp4")]
    for path in ("../b.mp4", "link.mp4", str(tmp_path / "b.mp4"), "none.mp4", "."):
        with pytest.raises(Ego2ExoError, match="below --media"):
            clip_of([], path, settings, read.append, 3)


def test_an_unreadable_video_is_named_as_the_client_knows_it():
    def read(path):
        raise Ego2ExoError(f"{path} is no video")

    video = "data:video/mp4;base64," + base64.b64encode(b"nothing").decode()
    with pytest.raises(Ego2ExoError) as error:
        clip_of([], video, ServeSettings(), read, 3)
    assert error.value.given == "the video is no video"


def test_settings(tmp_path):
    for wrong in ({"port": -1}, {"queue": 0}, {"batch": 0}, {"media": tmp_path / "none"}, {"timeout": 0}):
        with pytest.raises(Ego2ExoError, match=f"--{next(iter(wrong))}"):
            ServeSettings(**wrong)
    assert [ServeSettings(host=host).open_to_others for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0")] == [
        False, False, False, True,
    ]  # fmt: skip


def test_no_pixel_is_decoded_of_a_huge_picture(monkeypatch):
    monkeypatch.setattr("llava_ego2exo.serving.media._MAX_PIXELS", 47)
    with pytest.raises(Ego2ExoError, match="8 x 6"):
        clip_of([picture()], None, ServeSettings(), None, 3)
