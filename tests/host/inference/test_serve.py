"""A served student, asked by OpenAI's own client: the tokens that `ask` gives, streams, choices, and refusals."""

import base64
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

pytest.importorskip("fastapi")
import openai
from PIL import Image

from llava_ego2exo import ask, cli
from llava_ego2exo.host.inference.ask import VideoModel
from llava_ego2exo.video import read_video
from tests.videos import QUESTION

from .conftest import FRAMES, NEW


def frames_of(video):
    parts = []
    for frame in read_video(str(video), frames_upbound=FRAMES).frames:
        out = io.BytesIO()
        Image.fromarray(frame).save(out, "PNG")
        url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def video_part(url):
    return {"type": "video_url", "video_url": {"url": url}}


def text(value):
    return {"type": "text", "text": value}


def test_a_server_gives_what_ask_gives(served, world):
    videos = sorted(world.videos.glob("*.mp4"))[:2]
    flags = {"template": served.template, "frames_upbound": FRAMES, "max_new_tokens": NEW}
    for name, loaded in served.loaded.items():
        for video in videos:
            expected = ask(loaded, str(video), QUESTION, **flags)
            data = "data:video/mp4;base64," + base64.b64encode(video.read_bytes()).decode()
            for shown in (frames_of(video), [video_part(video.name)], [video_part(data)]):
                found = served([*shown, text(QUESTION)], name)
                assert found.choices[0].message.content == expected
            pieces = list(served([video_part(video.name), text(QUESTION)], name, stream=True,
                                 stream_options={"include_usage": True}))  # fmt: skip
            assert "".join(one.choices[0].delta.content or "" for one in pieces if one.choices) == expected
            assert pieces[-1].usage == found.usage and found.usage.completion_tokens <= NEW
    assert [(one.id, one.max_model_len) for one in served.client.models.list().data] == [
        (name, loaded[1].config.max_position_embeddings) for name, loaded in served.loaded.items()
    ]


def test_a_request_as_frigate_sends_it(served):
    """A text, then JPEG frames of which each says how much detail is wanted; no other field but the model."""
    clip, parts = read_video(str(sorted(served.videos.glob("*.mp4"))[0]), frames_upbound=FRAMES), []
    for frame in clip.frames:
        out = io.BytesIO()
        Image.fromarray(frame).save(out, "JPEG", quality=95)
        url = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
        parts.append({"type": "image_url", "image_url": {"url": url, "detail": "low"}})
    found = served([text(QUESTION), *parts])
    assert found.choices[0].message.content == "A red block moves left." and found.choices[0].finish_reason == "stop"


def test_requests_at_the_same_time_have_their_own_answers(served, world):
    videos, found = sorted(world.videos.glob("*.mp4")), {}
    alone = {
        video.name: served([video_part(video.name), text(QUESTION)]).choices[0].message.content for video in videos
    }
    assert len(set(alone.values())) > 1

    def one(name):
        found[name] = served([video_part(name), text(QUESTION)]).choices[0].message.content

    threads = [threading.Thread(target=one, args=(video.name,)) for video in videos]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == alone


def test_how_an_answer_is_sampled_and_stopped(served, world):
    shown = [video_part(sorted(world.videos.glob("*.mp4"))[0].name), text(QUESTION)]
    whole = served(shown).choices[0].message.content
    first, second = whole.split()[:2]
    assert len({served(shown, max_tokens=most).usage.prompt_tokens for most in (1, 2, NEW)}) == 1
    cut = served(shown, max_tokens=2).choices[0]
    assert cut.finish_reason == "length" and whole.startswith(cut.message.content)
    stopped = served(shown, stop=[second]).choices[0]
    assert stopped.finish_reason == "stop" and stopped.message.content == first
    drawn = [served(shown, temperature=2.0, seed=seed).choices[0].message.content for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1


def test_choices_are_answered_by_likelihood(served, world):
    video = sorted(world.videos.glob("*.mp4"))[0]
    options = [f"A {colour} block moves left." for colour in ("red", "green", "blue")]
    schema = {"name": "a", "schema": {"type": "object", "properties": {"what": {"enum": options}}}}
    form = {"type": "json_schema", "json_schema": schema}
    found = served([video_part(video.name), text(QUESTION)], response_format=form).choices[0]
    flags = {"template": served.template, "frames_upbound": FRAMES}
    expected = ask(served.loaded["student"], str(video), QUESTION, choices=options, **flags)
    assert found.probabilities == pytest.approx(expected, abs=1e-4)
    other = {"role": "system", "content": "Say the opposite of all that you see."}
    messages = [other, {"role": "user", "content": [video_part(video.name), text(QUESTION)]}]
    told = served.client.chat.completions.create(model="student", messages=messages, response_format=form).choices[0]
    assert told.probabilities != found.probabilities  # what comes before the question counts
    *_, last = served([video_part(video.name), text(QUESTION)], response_format=form, stream=True)
    assert last.choices[0].probabilities == found.probabilities
    best = max(expected, key=expected.get)
    assert found.message.content == f'{{"what": "{best}"}}'


def test_wrong_requests_get_openai_errors(served, world):
    name = sorted(world.videos.glob("*.mp4"))[0].name
    shown = [video_part(name), text(QUESTION)]
    for status, word, content, request in (
        (404, "does not exist", shown, {"model": "none"}),
        (400, "no picture", [text("?")], {}),
        (400, "no question", [video_part(name)], {}),
        (400, "5 frames", [*frames_of(world.videos / name), *frames_of(world.videos / name)[:1], text("?")], {}),
        (400, "below --media", [video_part("../x.mp4"), text("?")], {}),
        (400, "max_tokens 99", shown, {"max_tokens": 99}),
        (400, "temperature", shown, {"temperature": 9}),
        (400, "response_format", shown, {"response_format": {"type": "json_object"}}),
        (413, "larger than 1 MiB", [video_part("data:video/mp4;base64," + "A" * 2**21), text("?")], {}),
    ):
        with pytest.raises(openai.APIStatusError) as error:
            served(content, **request)
        assert error.value.status_code == status and word in error.value.body["message"], error.value
    with pytest.raises(openai.AuthenticationError):
        served.client.with_options(api_key="other").models.list()
    address = f"http://127.0.0.1:{served.port}"
    for path, body, status, word in (("/v1/completions", None, 404, "Not Found"),
                                     ("/v1/chat/completions", b"{}", 400, "Content-Type")):  # fmt: skip
        headers = {"Authorization": "Bearer key", "Content-Type": "text/plain"}
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(address + path, body, headers))
        assert refused.value.code == status and word in json.load(refused.value)["error"]["message"]
    assert urllib.request.urlopen(f"{address}/health").status == 200
    served(shown)
    assert (
        b'ego2exo_requests_total{end="stop",model="student"} 1.0' in urllib.request.urlopen(f"{address}/metrics").read()
    )


def test_a_full_queue_and_a_client_that_goes_away(served, world, monkeypatch):
    may, generate = threading.Event(), VideoModel.generate

    def blocked(self, *args):
        assert may.wait(30)
        return generate(self, *args)

    monkeypatch.setattr(VideoModel, "generate", blocked)
    engine, shown = served.engine, [video_part(sorted(world.videos.glob("*.mp4"))[0].name), text(QUESTION)]
    engine.size, found = 1, []
    running = threading.Thread(target=lambda: found.append(served(shown)))
    running.start()
    until(lambda: engine.running)
    with pytest.raises(openai.APITimeoutError):  # closes its connection
        served(shown, timeout=1.0)
    until(lambda: not engine.waiting)
    waiting = threading.Thread(target=lambda: found.append(served(shown)))
    waiting.start()
    until(lambda: engine.waiting)
    with pytest.raises(openai.RateLimitError) as error:
        served(shown)
    assert int(error.value.response.headers["retry-after"]) >= 1
    may.set()
    for thread in (running, waiting):
        thread.join(30)
    assert len({one.choices[0].message.content for one in found}) == 1 and len(found) == 2


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_an_answer_ends_the_server_and_every_request(world, end):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llava_ego2exo.cli", "serve", "--model", f"base={world.base('llama')}",
               "--template", world.template("llama"), "--media", str(world.videos), "--port", str(port),
               "--frames-upbound", str(FRAMES), "--batch", "1"]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    client, ends = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0), []
    shown = [video_part(sorted(world.videos.glob("*.mp4"))[0].name), text(QUESTION)]
    begun = threading.Event()

    def one(seed):
        try:
            for _ in client.chat.completions.create(
                model="base", messages=[{"role": "user", "content": shown}], stream=True, temperature=2, seed=seed
            ):
                begun.set()
            ends.append("answered")
        except openai.APIError as error:
            ends.append(type(error).__name__)

    try:
        until(lambda: server.poll() is not None or answers_at(port), 90)
        threads = [threading.Thread(target=one, args=(seed,)) for seed in range(24)]
        for thread in threads:
            thread.start()
        assert begun.wait(30)
        server.send_signal(end)
        out = server.communicate(timeout=30)[0]
        for thread in threads:
            thread.join(10)
        assert len(ends) == len(threads) and "Traceback" not in out, (ends, out)
        assert f"serving base at http://127.0.0.1:{port}/" in out
    finally:
        server.kill()


def test_a_port_in_use_is_refused_before_weights_load(world, no_weights, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = ["--model", str(world.base("llama")), "--template", world.template("llama")]
        assert cli.main(["serve", *words, "--port", str(taken.getsockname()[1])]) == 1
    assert "Address already in use" in capsys.readouterr().err


def answers_at(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).status == 200
    except OSError:
        return False


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
