"""A server of a student and its base, for the tests of requests and of the page."""

import socket
import threading
import time

import pytest

from llava_ego2exo.host.inference.answerer import Answerer, load
from llava_ego2exo.host.inference.ask import VideoModel
from llava_ego2exo.host.inference.settings import InferenceSettings

FRAMES, NEW = 4, 24


@pytest.fixture
def served(world, student):
    """A running server of student and base; `served.ask(content, **request)` asks the student."""
    import openai
    import uvicorn

    from llava_ego2exo.serving.app import make_app
    from llava_ego2exo.serving.settings import ServeSettings

    trained, template = student(), world.template("llama")
    how = InferenceSettings(template, frames_upbound=FRAMES, max_new_tokens=NEW)
    loaded = {"student": load(str(trained.folder), str(trained.base)), "base": load(str(trained.base))}
    models = {name: VideoModel(Answerer(one, template, NEW), how) for name, one in loaded.items()}
    settings = ServeSettings(media=world.videos, max_tokens=NEW, batch=4, api_key="key", max_body_mb=1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = make_app(models, settings)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="key", max_retries=0)

    def create(content, model="student", **request):
        return client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}], **request)

    create.client, create.loaded, create.template, create.port = client, loaded, template, port
    create.engine, create.videos = app.state.engine, world.videos
    yield create
    server.should_exit = True
    thread.join(20)
