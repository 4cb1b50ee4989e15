"""The files of one demo run: paired clips to learn from, held-out clips to be asked about, queries and captions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..common.files import write_whole
from .base import turns
from .cache import PAIRS_SEED, TESTS_SEED
from .cameras import VIEWS, draw, write_clip
from .plan import Plan
from .world import Event, Scene, queries, scene_answers, scenes

_SUFFIXES = {"ego": "ego", "exo": "exo1"}


def write_material(folder: Path, plan: Plan, seed: int) -> list[tuple[Scene, Path, Path]]:
    """Draw everything that a seed's students need.

    Writes `pairs/` (clips by the keystep naming), `tests/` and `tests.json` (clips of held-out combinations with what
    they show), `queries.json` for the teacher, and `control.json`, the exo clips with captions of what is plain there.

    Returns:
        The tests: scene, ego file, exo file.
    """
    training = list(scenes(plan.pairs, 100 * seed + PAIRS_SEED))
    files = _write_clips(folder / "pairs", training)
    write_whole(folder / "queries.json", json.dumps(queries(), indent=1))
    captions = [
        {"id": f"{exo.stem}_{number}", "video": exo.name, "conversations": turns(pair)}
        for scene, (_, exo) in zip(training, files, strict=True)
        for number, pair in enumerate(scene_answers(scene))
    ]
    write_whole(folder / "control.json", json.dumps(captions, indent=1))
    asked = list(scenes(plan.tests, 100 * seed + TESTS_SEED, held_out=True))
    tests = [(scene, *pair) for scene, pair in zip(asked, _write_clips(folder / "tests", asked), strict=True)]
    kept = [{"scene": asdict(scene), "ego": str(ego), "exo": str(exo)} for scene, ego, exo in tests]
    write_whole(folder / "tests.json", json.dumps(kept, indent=1))
    return tests


def read_tests(file: Path, view: str) -> list[tuple[Scene, Path]]:
    """Scenes of a `tests.json`, each with its file of one view."""
    return [(_scene(entry["scene"]), Path(entry[view])) for entry in json.loads(file.read_text())]


def _scene(values: dict[str, object]) -> Scene:
    events = tuple(Event(**event) for event in values["events"])  # type: ignore[attr-defined]
    return Scene(**{**values, "events": events, "clutter": tuple(values["clutter"])})  # type: ignore[arg-type]


def _write_clips(folder: Path, shown: Sequence[Scene]) -> list[tuple[Path, Path]]:
    folder.mkdir()
    pairs = []
    for index, scene in enumerate(shown):
        files = [folder / f"clip{index:05d}_{_SUFFIXES[view]}.mp4" for view in VIEWS]
        for view, file in zip(VIEWS, files, strict=True):
            write_clip(file, draw(scene, view))
        pairs.append((files[0], files[1]))
    return pairs
