"""Where answers go: lines on stdout, MQTT with Home Assistant's discovery, a webhook, kept frames."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ..errors import Ego2ExoError

if TYPE_CHECKING:
    import numpy as np

    from .questions import WatchQuestion

Line = dict[str, Any]  # an answer: time, camera, question, answer, and probabilities or none


def print_line(line: Line) -> None:
    """JSON Lines on stdout."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class Webhook:
    """Posts each answer as JSON; one that cannot be delivered is reported and let go."""

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise Ego2ExoError(f"--webhook {url}", "an http or https address", "correct it")
        self.url, self.say, self.failed = url, say, 0

    def send(self, line: Line) -> None:
        """Post one answer."""
        body, kind = json.dumps(line).encode(), {"Content-Type": "application/json"}
        try:
            request = urllib.request.Request(self.url, body, kind)  # noqa: S310 - the scheme is checked
            urllib.request.urlopen(request, timeout=5).close()  # noqa: S310
        except (OSError, HTTPException) as error:
            self.failed += 1
            self.say(f"webhook: {error} ({self.failed} not delivered)")


class Mqtt:
    """Publishes each question's newest answer, retained, and announces the sensors to Home Assistant.

    paho connects again by itself; what is published meanwhile waits.

    Args:
        url: mqtt://[user:password@]host[:port], or mqtts://.
        camera: its name in topics.
        questions: for the announcement.
        say: told once each time the broker cannot be reached.
    """

    def __init__(self, url: str, camera: str, questions: Sequence[WatchQuestion], say: Callable[[str], None]) -> None:
        import paho.mqtt.client as paho

        parts = urlsplit(url)
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
            raise Ego2ExoError(f"--mqtt {url}", "mqtt://[user:password@]host[:port], or mqtts://", "correct it")
        self.camera, self.questions, self._say = camera, questions, say
        self._place, self._there, self._closing = f"MQTT broker {parts.hostname}", True, False
        self.available = f"ego2exo/{camera}/availability"
        self.client = client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=f"ego2exo-{camera}")
        if parts.username:
            client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        if parts.scheme == "mqtts":
            client.tls_set()
        client.will_set(self.available, "offline", qos=1, retain=True)
        client.on_connect = self._announce
        client.on_connect_fail = client.on_disconnect = self._gone
        client.reconnect_delay_set(1, 30)
        client.connect_async(parts.hostname, parts.port or (8883 if parts.scheme == "mqtts" else 1883))
        client.loop_start()

    def _gone(self, *_: Any) -> None:
        if self._there and not self._closing:
            self._say(f"{self._place} does not answer; what is published waits for it")
        self._there = False

    def _announce(self, *_: Any) -> None:
        self._there = True
        for one in self.questions:
            topic = f"homeassistant/sensor/ego2exo_{self.camera}/{one.name}/config"
            state = f"ego2exo/{self.camera}/{one.name}"
            sensor = {
                "name": one.question[:60], "unique_id": f"ego2exo_{self.camera}_{one.name}", "state_topic": state,
                "value_template": "{{ value_json.answer[:255] }}", "json_attributes_topic": state,
                "availability_topic": self.available,
                "device": {"identifiers": [f"ego2exo_{self.camera}"], "name": self.camera},
            }  # fmt: skip
            self.client.publish(topic, json.dumps(sensor), qos=1, retain=True)
        self.client.publish(self.available, "online", qos=1, retain=True)

    def send(self, line: Line) -> None:
        """Publish one answer."""
        self.client.publish(f"ego2exo/{self.camera}/{line['question']}", json.dumps(line), qos=1, retain=True)

    def set_available(self, there: bool) -> None:
        """Say whether the camera gives frames."""
        self.client.publish(self.available, "online" if there else "offline", qos=1, retain=True)

    def close(self) -> None:
        """Say good-bye; what waits is still delivered where the broker answers."""
        self._closing = True
        with contextlib.suppress(RuntimeError, ValueError):  # not connected
            self.client.publish(self.available, "offline", qos=1, retain=True).wait_for_publish(2)
        self.client.disconnect()
        self.client.loop_stop()


class Keeper:
    """Writes the frames of each window as JPEG files, one folder a window."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, frames: Sequence[np.ndarray]) -> Path:
        """Write one window."""
        from PIL import Image

        self.count += 1
        place = self.folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{self.count:06d}"
        place.mkdir()
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(place / f"{number:03d}.jpg", quality=90)
        return place


def topic_name(text: str) -> str:
    """A name that a topic can hold."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-") or "camera"
