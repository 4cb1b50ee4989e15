"""The queries drawn for a clip, and a user's file of them."""

import json

import pytest

from llava_ego2exo.distill.teach.job import QUERIES, draw_queries, read_queries
from llava_ego2exo.errors import Ego2ExoError


def test_our_own_are_several_of_each_kind(tmp_path):
    assert list(QUERIES) == ["descriptive", "temporal", "spatial"]
    wordings = [wording for kind in QUERIES.values() for wording in kind]
    assert len(set(wordings)) == len(wordings) >= 15
    (tmp_path / "q.json").write_text(json.dumps(QUERIES))
    assert read_queries(None) == QUERIES == read_queries(tmp_path / "q.json")


def test_a_draw_depends_on_seed_segment_and_kind_alone():
    drawn = draw_queries(QUERIES, "t1_0003", 0)
    assert drawn == {kind: draw_queries({kind: QUERIES[kind]}, "t1_0003", 0)[kind] for kind in reversed(QUERIES)}
    assert list(drawn) == list(QUERIES) and all(drawn[kind] in QUERIES[kind] for kind in QUERIES)
    assert drawn["descriptive"] == QUERIES["descriptive"][1], "another draw would ask every finished run again"


def test_every_wording_is_drawn_about_as_often():
    for kind, wordings in QUERIES.items():
        drawn = [draw_queries(QUERIES, f"s{number}", 1)[kind] for number in range(500)]
        assert all(60 < drawn.count(wording) < 140 for wording in wordings)
    assert draw_queries(QUERIES, "s1", 0) != draw_queries(QUERIES, "s1", 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "q.json"),
        ("[1]", "not an object of kinds"),
        ("{}", "no kind"),
        ('{"a": "q"}', "kind 'a'"),
        ('{"a": [3, "q", " ", "q"]}', "3 fault.*3 is no text.*' ' is no text.*'q'"),
        ('{" a": ["q "]}', "2 fault.*' a'.*'q '"),
        ('{"a": ["see <image> now"]}', "<image>"),
        ('{"a": ["q\\u0000"]}', "control characters"),
    ],
)
def test_a_faulty_file(tmp_path, content, reason):
    (tmp_path / "q.json").write_text(content)
    with pytest.raises(Ego2ExoError, match=reason):
        read_queries(tmp_path / "q.json")
    with pytest.raises(Ego2ExoError, match="nowhere.json"):
        read_queries("nowhere.json")
