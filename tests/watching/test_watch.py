"""Windows of files and streams through a model that only counts, a real broker, and wrong input."""

import contextlib
import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from llava_ego2exo import cli
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.watching.outputs import Keeper, Mqtt, Webhook, topic_name
from llava_ego2exo.watching.questions import WatchQuestion, read_questions
from llava_ego2exo.watching.source import Source, Window
from llava_ego2exo.watching.watch import UNSURE, Watch, WatchSettings, clip_of

QUESTIONS = [WatchQuestion("bright", "How bright?", ("dark", "light")), WatchQuestion("what", "What?")]


def clip(folder, seconds=12, rate=5, size=(32, 24), kind="mp4"):
    """A video whose frames have the brightness of their second, times ten."""
    file = folder / f"clip.{kind}"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for index in range(seconds * rate):
            picture = np.full((size[1], size[0], 3), 10 * (index // rate), np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        container.mux(stream.encode())
    return file


class Model:
    """Keeps the clips that it is shown; sure of "light" by the brightness of the last frame."""

    def __init__(self, seconds=0.0, most=0):
        self.clips, self.seconds = [], seconds
        self.settings = SimpleNamespace(frames_upbound=most, force_sample=False)

    one_encoding = contextlib.nullcontext

    def prepare(self, clip):
        self.clips.append(clip)
        time.sleep(self.seconds)
        return clip

    def probabilities(self, clip, asked):
        light = float(clip.frames[-1].mean()) / 255
        return [dict(zip(choices, (1 - light, light), strict=True)) for _, choices in asked]

    def answers(self, clip, questions):
        return [SimpleNamespace(text=f"{len(clip.frames)} frames") for _ in questions]


def watch_of(address, model, said=None, state=None, fps=1, silence=2.0, **settings):
    lines, said = [], [] if said is None else said
    source = Source(str(address), fps, silence, said.append)
    how = WatchSettings("kitchen", **{"window": 4, "every": 2, **settings})
    return Watch(
        model, source, QUESTIONS, how, lines.append, lambda _: None, state or (lambda _: None), said.append
    ), lines


def test_windows_of_a_file(tmp_path):
    model = Model()
    watch, lines = watch_of(clip(tmp_path), model, fast=True)
    tally = watch.run()
    assert [[round(frame.mean() / 10) for frame in one.frames] for one in model.clips] == [
        [0, 1], [0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8, 9], [8, 9, 10, 11],
    ]  # fmt: skip
    assert (tally.windows, tally.skipped) == (6, 0)
    assert [line["question"] for line in lines] == 6 * ["bright", "what"]
    assert [line["answer"] for line in lines[::2]] == 5 * ["dark"] + [UNSURE]  # 110 of 255: not sure enough
    assert lines[1]["answer"] == "2 frames" and "probabilities" not in lines[1]
    assert [lines[-1]["from"], lines[-1]["to"], lines[-1]["camera"]] == [8.0, 11.0, "kitchen"]


def test_frames_of_a_window():
    frames = [(float(second), np.full((2, 2, 3), second, np.uint8)) for second in range(5)]
    assert clip_of(frames, 3).indices == [0, 2, 4] and clip_of(frames, 0).indices == [0, 1, 2, 3, 4]
    assert len(clip_of(frames, 8).frames) == 5 and len(clip_of(frames, 8, exactly=True).frames) == 8
    window = Window(3.0, 1)
    for frame in frames:
        window.add(frame)
    assert [second for second, _ in window.frames()] == [2, 3, 4]
    window.add((5.0, np.zeros((4, 4, 3), np.uint8)))  # the stream has changed its size
    assert [second for second, _ in window.frames()] == [5]
    window.add((0.0, np.zeros((4, 4, 3), np.uint8)))  # and its clock
    assert [second for second, _ in window.frames()] == [0]


def test_a_slow_model_skips_windows_and_counts_them(tmp_path):
    model = Model(seconds=0.8)
    watch, _ = watch_of(clip(tmp_path, seconds=4), model, every=0.25, window=2, fps=5)
    tally = watch.run()
    assert tally.skipped >= 4 and 3 <= tally.windows == len(model.clips) <= 6
    assert tally.windows + tally.skipped + tally.empty <= 4 / 0.25 + 5


class Stream:
    """A file as a TCP stream at its own speed, cut and given again as often as it is asked for."""

    def __init__(self, file, seconds):
        self.content, self.seconds, self.served = file.read_bytes(), seconds, 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.served += 1
            with connection:
                for place in range(0, len(self.content), 1880):
                    try:
                        connection.sendall(self.content[place : place + 1880])
                    except OSError:
                        break
                    time.sleep(self.seconds * 1880 / len(self.content))


def test_a_stream_that_is_cut_is_opened_again(tmp_path):
    stream, said, states = Stream(clip(tmp_path, seconds=3, kind="ts"), 1.0), [], []
    watch, lines = watch_of(stream.address, Model(), said, states.append, every=0.5, silence=1.0)
    threading.Timer(7.0, watch.stop.set).start()
    tally = watch.run()
    assert stream.served >= 2 and watch.source.reconnects >= 1 and tally.windows >= 2 and lines
    assert any("again in 1 s" in text for text in said) and True in states
    stream.socket.close()


def test_a_stream_that_never_gives_a_frame(tmp_path):
    silent, said, states = socket.create_server(("127.0.0.1", 0)), [], []
    watch, lines = watch_of(f"tcp://127.0.0.1:{silent.getsockname()[1]}", Model(), said, states.append, silence=1.0)
    threading.Timer(3.5, watch.stop.set).start()
    started = time.monotonic()
    tally = watch.run()
    assert time.monotonic() - started < 8 and not lines and states == [False]
    assert tally.windows == 0 and any("again in" in text for text in said)


def test_a_cameras_password_is_not_said():
    said, port = [], free_port()
    watch, _ = watch_of(f"rtsp://user:se@cret@127.0.0.1:{port}/cam", Model(), said)
    threading.Timer(1.5, watch.stop.set).start()
    watch.run()
    assert f"rtsp://127.0.0.1:{port}/cam: " in said[0] and not any("cret" in text for text in said)


RTSP = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"


def test_an_rtsp_camera_that_goes_away_and_comes_back(tmp_path):
    python = "/usr/bin/python3"
    if subprocess.run([python, "-c", RTSP], capture_output=True).returncode:
        pytest.skip("no GStreamer RTSP server (apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi)")
    file, port = clip(tmp_path, seconds=6), free_port()

    def serve():
        return subprocess.Popen([python, Path(__file__).with_name("rtsp_server.py"), file, str(port)])

    said, states, server = [], [], serve()
    watch, lines = watch_of(f"rtsp://127.0.0.1:{port}/camera", Model(), said, states.append, every=0.5, silence=3.0)
    thread = threading.Thread(target=watch.run)
    thread.start()
    try:
        until(lambda: len(lines) >= 4, 30)
        server.kill()
        server.wait()
        until(lambda: watch.source.reconnects >= 1, 30)
        before, server = watch.window.count, serve()
        until(lambda: watch.window.count > before, 40)
    finally:
        watch.stop.set()
        server.kill()
        thread.join(20)
    assert not thread.is_alive() and states[-1] is True and any("again in" in text for text in said)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def broker(tmp_path):
    if shutil.which("mosquitto", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("no mosquitto (apt-get install mosquitto)")
    pytest.importorskip("paho.mqtt.client")
    port = free_port()
    (tmp_path / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    started = []

    def start():
        program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin")
        started.append(subprocess.Popen([program, "-c", tmp_path / "mosquitto.conf"], stderr=subprocess.DEVNULL))

    def stop():
        started[-1].terminate()
        started[-1].wait(10)

    start()
    yield SimpleNamespace(port=port, url=f"mqtt://127.0.0.1:{port}", start=start, stop=stop)
    stop()


def listener(port):
    import paho.mqtt.client as paho

    found = {}
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_connect = lambda *_: client.subscribe("#", qos=1)
    client.on_message = lambda _client, _data, message: found.__setitem__(message.topic, message.payload.decode())
    client.reconnect_delay_set(1, 1)
    client.connect_async("127.0.0.1", port)
    client.loop_start()
    return client, found


def until(condition, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_broker_that_goes_away_and_comes_back(broker):
    (client, found), said = listener(broker.port), []
    mqtt = Mqtt(broker.url, "kitchen", QUESTIONS, said.append)
    line = {"question": "bright", "answer": "light", "probabilities": {"light": 0.9}}
    mqtt.send(line)
    until(lambda: len(found) >= 4)
    assert json.loads(found["ego2exo/kitchen/bright"]) == line
    assert found["ego2exo/kitchen/availability"] == "online"
    sensor = json.loads(found["homeassistant/sensor/ego2exo_kitchen/bright/config"])
    assert sensor["state_topic"] == "ego2exo/kitchen/bright" and sensor["name"] == "How bright?"
    said.clear()  # the broker may have started after the first try
    broker.stop()
    until(lambda: said == ["MQTT broker 127.0.0.1 does not answer; what is published waits for it"])
    mqtt.send({**line, "answer": "dark"})  # waits
    broker.start()
    until(lambda: json.loads(found["ego2exo/kitchen/bright"])["answer"] == "dark")
    mqtt.close()
    until(lambda: found["ego2exo/kitchen/availability"] == "offline")
    assert len(said) == 1
    client.loop_stop()


def test_a_webhook_gets_each_answer_and_may_fail():
    got, said = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200 if len(got) == 1 else 500)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    webhook = Webhook(f"http://127.0.0.1:{server.server_address[1]}/", said.append)
    for number in range(2):
        webhook.send({"answer": number})
    server.shutdown()
    assert got == [{"answer": 0}, {"answer": 1}] and webhook.failed == 1 and "500" in said[0]


def test_kept_frames_are_those_of_each_window(tmp_path):
    from PIL import Image

    keeper = Keeper(tmp_path / "kept")
    places = [keeper.keep(np.full((2, 8, 8, 3), value, np.uint8)) for value in (10, 200)]
    assert [np.asarray(Image.open(place / "001.jpg")).mean() for place in places] == pytest.approx([10, 200], abs=3)


def test_wrong_questions_are_all_named(tmp_path):
    file = tmp_path / "q.json"
    good = {"name": "a", "question": "?", "options": ["x", "y"]}
    file.write_text(json.dumps([good, {"name": "b", "question": "?"}]))
    assert [one.options for one in read_questions(file)] == [("x", "y"), ()]
    wrong = [good, good, 3, {**good, "name": "a b"}, {"name": "c", "question": " "}]
    wrong += [{"name": "d", "question": "?", "options": ["x"]}, {"name": "e", "question": "?", "option": []}]
    file.write_text(json.dumps(wrong))
    with pytest.raises(Ego2ExoError) as error:
        read_questions(file)
    for place in ("'a' twice", "entry 3", "entry 4", "entry 5", "entry 6", "entry 7: unknown field option"):
        assert place in error.value.given
    for text in ("{}", "[]", "no json"):
        file.write_text(text)
        with pytest.raises(Ego2ExoError):
            read_questions(file)


def test_wrong_input_is_refused(tmp_path, capsys):
    questions = tmp_path / "q.json"
    questions.write_text(json.dumps([{"name": "a", "question": "?"}]))
    video = str(clip(tmp_path, seconds=1))
    common = ["--model", str(tmp_path / "none"), "--questions", str(questions)]
    for words, message in (
        ([str(tmp_path / "none.mp4"), *common], "none.mp4"),
        ([video, *common, "--window", "0"], "--window 0"),
        ([video, *common, "--sure", "2"], "--sure 2"),
        ([video, "--model", "m", "--questions", str(tmp_path / "none.json")], "none.json"),
    ):
        assert cli.main(["watch", *words]) == 1
        assert message in capsys.readouterr().err
    Mqtt(f"mqtt://127.0.0.1:{free_port()}", "c", QUESTIONS, print).close()  # no broker: nothing to say good-bye to
    for url in ("http://x", "mqtt://"):
        with pytest.raises(Ego2ExoError, match="--mqtt"):
            Mqtt(url, "c", [], print)
    with pytest.raises(Ego2ExoError, match="--webhook"):
        Webhook("ftp://x", print)
    (tmp_path / "broken.mp4").write_bytes(b"x" * 99)
    with pytest.raises(Ego2ExoError, match="no video that FFmpeg knows"):
        watch_of(tmp_path / "broken.mp4", Model())
    assert topic_name("rtsp://cam/a b") == "rtsp-cam-a-b" and topic_name("##") == "camera"
