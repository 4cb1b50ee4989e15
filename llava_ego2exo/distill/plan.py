"""Which questions a run asks, and in which batches: fixed by pairs, queries and batch size alone.

Neither an interruption nor the number of processes changes what goes through the model together, so neither changes
an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..runs.batches import in_batches
from .answers import answer_key
from .pairs import Pair


@dataclass(frozen=True)
class Question:
    """One query about one clip.

    Args:
        key: of its answer.
        query: as it is put.
        segment: of the pair that asks it first.
        split: of that pair.
        kind: of the query.
    """

    key: str
    query: str
    segment: str
    split: str
    kind: str


@dataclass(frozen=True)
class Task:
    """One clip with its questions.

    Args:
        path: of the ego video.
        start_s: where the clip begins, in seconds; None: at the start.
        end_s: where it ends; None: at the end.
        video: sha256 of the file.
        questions: one or more.
    """

    path: str
    start_s: float | None
    end_s: float | None
    video: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Plan:
    """What a run is to answer.

    Args:
        tasks: each clip once, in order of the pairs.
        places: (segment, kind) -> key of the answer that belongs there, in order of pairs and kinds.
    """

    tasks: list[Task]
    places: dict[tuple[str, str], str]

    def batches(self, size: int) -> list[tuple[Task, ...]]:
        """The tasks, `size` clips a batch."""
        return in_batches(self.tasks, size)


def make_plan(
    pairs: Sequence[Pair],
    queries: Mapping[str, Mapping[str, str]],
    hashes: Mapping[str, str],
    teacher: str,
    settings: dict[str, Any],
) -> Plan:
    """Each different clip and question once, also where several pairs share them.

    Args:
        pairs: whose ego clips to ask about.
        queries: segment -> kind -> query.
        hashes: path -> sha256.
        teacher: fingerprint.
        settings: see `Settings.to_dict`.
    """
    clips: dict[tuple[str, float | None, float | None], list[Question]] = {}
    paths: dict[tuple[str, float | None, float | None], str] = {}
    places = {}
    for pair in pairs:
        clip = (hashes[pair.ego], pair.start_s, pair.end_s)
        paths.setdefault(clip, pair.ego)
        questions = clips.setdefault(clip, [])
        for kind, query in queries[pair.segment].items():
            key = answer_key(*clip, query, teacher, settings)
            places[pair.segment, kind] = key
            if all(key != question.key for question in questions):
                questions.append(Question(key, query, pair.segment, pair.split, kind))
    tasks = [Task(paths[clip], clip[1], clip[2], clip[0], tuple(questions)) for clip, questions in clips.items()]
    return Plan(tasks, places)
