"""A served model as teacher: its answers, what is retried, and servers that fail in every way."""

import http.server
import json
import threading
import time

import numpy as np
import pytest

pytest.importorskip("openai")

from llava_ego2exo import cli
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.inference import served as module
from llava_ego2exo.host.inference.served import ServedAnswerer, model_fingerprint, served_model, served_settings
from llava_ego2exo.host.inference.settings import InferenceOptions

from .asking import error_of

FRAMES = np.full((2, 30, 40, 3), 90, np.uint8)


class Server:
    """Answers by a script: each entry (status, body) once, then what `usual` gives for the request."""

    def __init__(self, *script, usual=None):
        self.script, self.usual, self.asked, self.times = list(script), usual, [], []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(200, {"object": "list", "data": [{"id": "big", "object": "model"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.asked.append(body)
                owner.times.append(time.monotonic())
                self.reply(*(owner.script.pop(0) if owner.script else (owner.usual or answered)(body)))

            def reply(self, status, body, **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.path = f"openai:http://127.0.0.1:{self._server.server_address[1]}/v1#big"

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def answered(body, reason="stop"):
    text = f"{sum(part['type'] == 'image_url' for part in body['messages'][0]['content'])} frames"
    message = {"role": "assistant", "content": f"{text}: {body['messages'][0]['content'][-1]['text']}"}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    return 200, {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "big",
        "choices": [choice],
        "usage": usage,
    }


@pytest.fixture
def serve():
    servers = []

    def start(*script, **given):
        servers.append(Server(*script, **given))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def answerer(server, **options):
    given = InferenceOptions(**{"workers": 2, **options})
    model = served_model(server.path)
    return ServedAnswerer(model, served_settings(model, given, 16), given)


def test_queries_of_a_clip_keep_their_order_and_clips_run_side_by_side(serve):
    server = serve()
    asker = answerer(server, image_side=20)
    clips = [asker.preprocess(FRAMES), asker.preprocess(FRAMES[:1])]
    found = asker.answer(clips, [["a", "b", "c"], ["d"]])
    assert [[one.text for one in own] for own in found] == [
        ["2 frames: a", "2 frames: b", "2 frames: c"],
        ["1 frames: d"],
    ]
    assert found[0][0].ended and len(found[0][0].tokens) == 5
    texts = [body["messages"][0]["content"][-1]["text"] for body in server.asked]
    assert [text for text in texts if text != "d"] == ["a", "b", "c"]
    assert all(body["temperature"] == 0 and body["max_tokens"] == 16 for body in server.asked)
    assert clips[0][0].startswith("data:image/jpeg;base64,") and len(clips[0][0]) < len(
        answerer(server).preprocess(FRAMES)[0]
    )


def test_what_may_succeed_later_is_retried_and_retry_after_is_kept(serve):
    server = serve((429, {"error": {"message": "full"}}), (500, {"error": {"message": "oops"}}))
    ((found,),) = answerer(server).answer([["data:image/jpeg;base64,"]], [["a"]])
    assert found.text == "1 frames: a" and len(server.asked) == 3


def test_clips_that_fail_do_not_stop_the_others(serve):
    def usual(body):
        text = body["messages"][0]["content"][-1]["text"]
        return {"long": (400, {"error": {"message": "too long"}}), "odd": (200, b"[]")}.get(text) or answered(body)

    server = serve(usual=usual)
    found = answerer(server).answer(3 * [["data:image/jpeg;base64,"]], [["long"], ["odd"], ["good"]])
    assert "HTTP 400: too long" in found[0].given and isinstance(found[1], Ego2ExoError)
    assert found[2][0].text == "1 frames: good"
    cut = answerer(serve(usual=lambda body: answered(body, "length"))).answer([["data:image/jpeg;base64,"]], [["a"]])
    assert not cut[0][0].ended


def test_a_server_that_is_down_ends_the_run(serve, monkeypatch):
    monkeypatch.setattr(module, "_RETRIES", 0)
    server = serve(usual=lambda _body: (503, {"error": {"message": "gone"}}))
    asker = answerer(server)
    with pytest.raises(Ego2ExoError, match="stopped answering") as error:
        asker.answer(20 * [["data:image/jpeg;base64,"]], 20 * [["a"]])
    assert "same command again" in error.value.remedy and len(server.asked) < 14
    server.close()
    with pytest.raises(Ego2ExoError, match="big at http"):
        answerer(server)


def test_identity_is_the_name_and_how_it_is_asked(serve, monkeypatch):
    first, second = "openai:http://a:1/v1#m", "openai:https://user:pass@b/v1#m"
    assert model_fingerprint(first) == model_fingerprint(second) != model_fingerprint("openai:http://a:1/v1#n")
    assert served_model("checkpoints/student") is None and "pass" not in served_model(second).shown
    made = [
        served_settings(served_model(first), InferenceOptions(**options), 16) for options in ({}, {"image_side": 9})
    ]
    assert made[0] != made[1]
    for path in ("openai:", "openai:http://a:1/v1", "openai:ftp://a#m"):
        with pytest.raises(Ego2ExoError, match="openai:http://HOST:PORT/v1#NAME"):
            served_model(path)
    for options in ({"bits": 4}, {"template": "v1"}, {"dtype": "float16"}):
        with pytest.raises(Ego2ExoError, match="which is served"):
            served_settings(served_model(first), InferenceOptions(**options), 16)
    server = serve()
    with pytest.raises(Ego2ExoError, match="NO_SUCH_KEY"):
        answerer(server, api_key_env="NO_SUCH_KEY")
    server.path = server.path.replace("#big", "#small")
    with pytest.raises(Ego2ExoError) as error:
        answerer(server)
    assert error.value.allowed == "big"


def test_teach_asks_a_served_model_and_resumes(serve, world, tmp_path, capsys):
    videos = sorted(world.videos.glob("*.mp4"))[:2]
    pairs = [{"segment": file.stem, "ego": str(file), "exo": {"exo": str(file)}, "split": "train"} for file in videos]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in pairs))
    server, other = serve(), serve()
    command = [
        "teach",
        "--pairs",
        str(tmp_path / "pairs.jsonl"),
        "--out",
        str(tmp_path / "answers"),
        "--frames-upbound",
        "2",
    ]
    assert cli.main([*command, "--model", server.path]) == 0, capsys.readouterr().err
    answers = [json.loads(line) for line in (tmp_path / "answers/answers.jsonl").read_text().splitlines()]
    assert len(answers) == len(server.asked) == 3 * len(videos)
    assert all(one["answer"] == f"2 frames: {one['query']}" and one["tokens"] == 5 for one in answers)
    assert cli.main([*command, "--model", other.path]) == 0  # another address of the same model: nothing is left
    assert not other.asked
    assert cli.main([*command, "--model", server.path, "--top-k", "3"]) == 1
    assert "--top-k" in error_of(capsys)
