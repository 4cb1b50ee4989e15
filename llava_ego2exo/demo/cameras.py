"""The two cameras of the paired world: frames of a scene, and the files of all clips of a run."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..common.files import write_atomic
from .variants import DemoPlan
from .world import NEAR, ON_THE_LEFT, Event, Scene, queries, scene_answers, scenes, turns

SIZE, FRAMES, RATE = 64, 4, 1  # pixels, frames a clip, frames a second
VIEWS = ("ego", "exo")
PAIRS_SEED, TESTS_SEED = 2, 3
# New clips of pairs of objects that training shows, and of those that it does not: whether they are held out.
SPLITS = {"trained": False, "held-out": True}
_SUFFIXES = {"ego": "ego", "exo": "exo1"}
EXO_HAND, EXO_OBJECT, EGO_HAND, EGO_OBJECT = 4.5, 5.5, 6.0, 8.0  # radii in pixels
_FINE = 4  # drawn this many times larger, then shrunk: smooth edges

_SKIN, _GLOVE = (224, 172, 134), (140, 230, 60)
_COLOURS = {
    "blue": (50, 80, 200), "green": (40, 140, 60), "pink": (240, 130, 170), "white": (235, 235, 235),
    "brown": (130, 85, 50), "grey": (125, 125, 130), "yellow": (200, 180, 90),
    "beige": (215, 200, 165), "purple": (140, 100, 160), "teal": (70, 140, 140),
    "apple": (220, 30, 30), "book": (250, 220, 20), "bottle": (20, 110, 30), "cup": (250, 250, 250),
    "knife": (20, 20, 20), "orange": (250, 130, 10), "phone": (30, 200, 230), "sponge": (230, 40, 220),
    "basket": (120, 60, 20), "box": (170, 120, 60), "jar": (90, 170, 90), "plate": (200, 160, 200),
    "vase": (60, 60, 160),
    "clock": (250, 250, 250), "lamp": (255, 230, 90), "mirror": (170, 220, 250), "plant": (30, 110, 40),
}  # fmt: skip
_ROUND = ("apple", "cup", "orange", "clock", "plate", "plant")
_FLAT, _TALL = ("knife", "sponge", "basket"), ("bottle", "phone", "jar", "lamp", "vase")


class _Camera:
    """A picture, shifted and scaled as a whole."""

    def __init__(self, background: tuple[int, ...], rng: np.random.Generator) -> None:
        from PIL import Image, ImageDraw

        self.image = Image.new("RGB", (SIZE * _FINE, SIZE * _FINE), background)
        self.pen = ImageDraw.Draw(self.image)
        self.shift, self.scale = rng.uniform(-3, 3, 2), rng.uniform(0.93, 1.07)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return tuple(((np.array((x, y)) - SIZE / 2) * self.scale + SIZE / 2 + self.shift) * _FINE)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: tuple[int, ...]) -> None:
        self.pen.rectangle([*self._at(x0, y0), *self._at(x1, y1)], fill=colour)

    def disc(self, x: float, y: float, r: float, colour: tuple[int, ...]) -> None:
        self.pen.ellipse([*self._at(x - r, y - r), *self._at(x + r, y + r)], fill=colour)

    def arm(self, x0: float, y0: float, x1: float, y1: float, width: float, colour: tuple[int, ...]) -> None:
        self.pen.line([*self._at(x0, y0), *self._at(x1, y1)], fill=colour, width=round(width * _FINE * self.scale))

    def hand(self, x: float, y: float, r: float, which: str) -> None:
        """A hand; the left one wears a glove."""
        self.disc(x, y, r, _GLOVE if which == "left" else _SKIN)

    def thing(self, name: str, x: float, y: float, r: float) -> None:
        """An object by colour and shape, about `r` in radius."""
        colour = _COLOURS[name]
        if name in _ROUND:
            self.disc(x, y, r, colour)
        else:
            wide, high = (1.3, 0.6) if name in _FLAT else (0.6, 1.3) if name in _TALL else (1.0, 1.0)
            self.box(x - r * wide, y - r * high, x + r * wide, y + r * high, colour)

    def frame(self, light: float, rng: np.random.Generator) -> np.ndarray:
        from PIL import Image

        small = np.asarray(self.image.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float32)
        return np.clip(small * light + rng.normal(0, 5, small.shape), 0, 255).astype(np.uint8)


def draw(scene: Scene, view: str) -> np.ndarray:
    """A clip of one camera: (`FRAMES`, `SIZE`, `SIZE`, 3) uint8; each half of it shows one event."""
    rng = np.random.default_rng([scene.seed, VIEWS.index(view)])
    light, pose = rng.uniform(0.85, 1.15), int(rng.integers(2**31))
    paint = {"ego": _ego, "exo": _exo}[view]
    frames = []
    for index in range(FRAMES):
        jitter = rng.uniform(-1, 1, 2)
        camera = paint(scene, index * len(scene.events) // FRAMES, jitter, np.random.default_rng(pose))
        frames.append(camera.frame(light, rng))
    return np.stack(frames)


def _exo(scene: Scene, index: int, jitter: np.ndarray, pose: np.random.Generator) -> _Camera:
    """From the front: the person's left is on the right, and what is near the person is higher up."""
    event = scene.events[index]
    camera = _Camera(_COLOURS[scene.wall], pose)
    camera.thing(scene.item, 10 if scene.place.endswith("left") else 54, 7 if scene.place.startswith("high") else 24, 5)
    camera.disc(32, 9, 6, _SKIN)
    camera.box(22, 15, 42, 36, _COLOURS[scene.shirt])
    camera.box(-9, 33, 73, 73, _COLOURS[scene.table])
    for name, x in zip(scene.clutter, (6, 58), strict=True):
        camera.thing(name, x, 40, 4)
    left, near = event.region in ON_THE_LEFT, event.region in NEAR
    x, y = (45 if left else 19) + jitter[0], (37 if near else 51) + jitter[1]
    camera.thing(event.object, x, y + EXO_OBJECT, EXO_OBJECT)
    for hand, shoulder, folded in (("left", 41, 36), ("right", 23, 28)):
        reach = (x, y) if hand == event.hand else (folded, 27)
        camera.arm(shoulder, 18, *reach, 3, _COLOURS[scene.shirt])
        camera.hand(*reach, EXO_HAND, hand)
    return camera


def _ego(scene: Scene, index: int, jitter: np.ndarray, pose: np.random.Generator) -> _Camera:
    """From the person's eyes: arms come in from below, and the held thing is large."""
    event = scene.events[index]
    camera = _Camera(_COLOURS[scene.table], pose)
    for name, x in zip(scene.clutter, (56, 8), strict=True):
        camera.thing(name, x, 6, 4)
    left, near = event.region in ON_THE_LEFT, event.region in NEAR
    x, y = (19 if left else 45) + jitter[0], (44 if near else 19) + jitter[1]
    camera.thing(event.object, x, y - 7, EGO_OBJECT)
    for hand, corner in (("left", 8), ("right", 56)):
        reach = (x, y) if hand == event.hand else (corner, 62)
        camera.arm(corner, 70, *reach, 6, _COLOURS[scene.shirt])
        camera.hand(*reach, EGO_HAND, hand)
    return camera


def write_clip(path: Path, frames: np.ndarray) -> None:
    """Write frames as a video file, with little loss: at this size a codec's blur would hide a hand."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "8", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv444p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_material(folder: Path, plan: DemoPlan, seed: int) -> dict[str, list[tuple[Scene, Path, Path]]]:
    """Draw everything that a seed's students need.

    Writes `pairs/` (clips by the keystep naming), `tests.json` (new clips of each of `SPLITS` with what they show),
    `queries.json` for the teacher, and `control.json`, the exo clips with captions of what is plain there.

    Returns:
        The tests of each split: scene, ego file, exo file.
    """
    training = list(scenes(plan.pairs, 100 * seed + PAIRS_SEED))
    files = _write_clips(folder / "pairs", training)
    write_atomic(folder / "queries.json", json.dumps(queries(), indent=1))
    captions = [
        {"id": f"{exo.stem}_{number}", "video": exo.name, "conversations": turns(pair)}
        for scene, (_, exo) in zip(training, files, strict=True)
        for number, pair in enumerate(scene_answers(scene))
    ]
    write_atomic(folder / "control.json", json.dumps(captions, indent=1))
    tests = {}
    for split, held_out in SPLITS.items():
        asked = list(scenes(plan.tests, 100 * seed + TESTS_SEED, held_out))
        written = _write_clips(folder / f"tests-{split}", asked)
        tests[split] = [(scene, *pair) for scene, pair in zip(asked, written, strict=True)]
    kept = {
        split: [{"scene": asdict(scene), "ego": str(ego), "exo": str(exo)} for scene, ego, exo in clips]
        for split, clips in tests.items()
    }
    write_atomic(folder / "tests.json", json.dumps(kept, indent=1))
    return tests


def read_tests(file: Path, view: str) -> dict[str, list[tuple[Scene, Path]]]:
    """Scenes of each split of a `tests.json`, each with its file of one view."""
    return {
        split: [(_scene(entry["scene"]), Path(entry[view])) for entry in entries]
        for split, entries in json.loads(file.read_text()).items()
    }


def _scene(values: dict[str, Any]) -> Scene:
    changed = {"events": tuple(Event(**event) for event in values["events"]), "clutter": tuple(values["clutter"])}
    return Scene(**{**values, **changed})


def _write_clips(folder: Path, shown: Sequence[Scene]) -> list[tuple[Path, Path]]:
    """Draw on every core; ego and exo file of each scene."""
    folder.mkdir()
    stems = [str(folder / f"clip{index:05d}") for index in range(len(shown))]
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("fork")) as pool:
        return list(pool.map(_write_pair, shown, stems, chunksize=32))


def _write_pair(scene: Scene, stem: str) -> tuple[Path, Path]:
    files = [Path(f"{stem}_{_SUFFIXES[view]}.mp4") for view in VIEWS]
    for view, file in zip(VIEWS, files, strict=True):
        write_clip(file, draw(scene, view))
    return files[0], files[1]
