"""The answers on disk survive a kill at any byte, and name what is damaged."""

import dataclasses
import json

import numpy as np
import pytest

from llava_ego2exo.distill.answers import Answer, AnswerStore, answer_key, read_answers, write_answers
from llava_ego2exo.distill.top_k import TopK, load_top_k, save_top_k, top_k_path
from llava_ego2exo.errors import Ego2ExoError


def answer(number: int, **changes) -> Answer:
    values = {
        "key": f"{number:032x}", "segment": f"s{number}", "split": "train", "kind": "temporal", "query": "What?",
        "answer": "Erst schält\nsie den 🥕.", "flags": ("cut",), "tokens": 7, "video": "0" * 64, "start_s": None,
        "end_s": 2.5, "teacher": "t" * 32, "settings": {"template": "v1"}, **changes,
    }  # fmt: skip
    return Answer(**values)


def test_what_is_appended_is_read(tmp_path):
    with AnswerStore(tmp_path / "new", 3) as store:
        store.append([answer(0), answer(1)])
        assert read_answers(tmp_path / "new") == [answer(0), answer(1)], "on disk before the file is closed"
        store.append([answer(2)])
    assert read_answers(tmp_path / "new") == [answer(0), answer(1), answer(2)]
    assert (tmp_path / "new" / "answers.part-3.jsonl").is_file()


def test_cut_at_any_byte_only_the_torn_record_is_lost(tmp_path):
    with AnswerStore(tmp_path) as store:
        store.append([answer(0), answer(1)])
    whole = store.path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in {*range(0, len(whole), 5), first - 1, first, len(whole) - 1, len(whole)}:
        store.path.write_bytes(whole[:size])
        kept = [answer(0), answer(1)][: (size >= first) + (size == len(whole))]
        assert read_answers(tmp_path) == kept, size
        with AnswerStore(tmp_path) as again:
            again.append([answer(5)])
        assert read_answers(tmp_path) == [*kept, answer(5)], size
        assert all(json.loads(line) for line in store.path.read_text().splitlines())


def test_finishing_replaces_the_parts(tmp_path):
    for rank in (0, 1):
        with AnswerStore(tmp_path, rank) as store:
            store.append([answer(rank)])
    write_answers(tmp_path, [answer(1), answer(0)])
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]
    assert read_answers(tmp_path) == [answer(1), answer(0)]


def test_a_kill_between_the_new_file_and_the_old_parts_doubles_nothing(tmp_path):
    with AnswerStore(tmp_path) as store:
        store.append([answer(0), answer(1)])
    part = store.path.read_bytes()
    write_answers(tmp_path, [answer(1), answer(0)])
    store.path.write_bytes(part)
    assert read_answers(tmp_path) == [answer(1), answer(0)]


def test_the_last_record_of_a_key_counts(tmp_path):
    with AnswerStore(tmp_path) as store:
        store.append([answer(0), answer(1), answer(0, answer="again")])
    assert read_answers(tmp_path) == [answer(0, answer="again"), answer(1)]


def test_a_store_without_answers_leaves_no_file(tmp_path):
    AnswerStore(tmp_path).close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "no object"),
        ('{"key": "k"}', "lacks .*answer"),
        (json.dumps({**dataclasses.asdict(answer(0)), "extra": 1}), "unknown .*extra"),
        (json.dumps({**dataclasses.asdict(answer(0)), "tokens": "7"}), "tokens of another type"),
        (json.dumps({**dataclasses.asdict(answer(0)), "answer": None}), "answer of another type"),
        (json.dumps({**dataclasses.asdict(answer(0)), "flags": "cut"}), "flags of another type"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, reason):
    good = json.dumps(dataclasses.asdict(answer(0)))
    (tmp_path / "answers.jsonl").write_text(f"{good}\n{line}\n\n{line}\n")
    with pytest.raises(Ego2ExoError, match=f"2 damaged line.*line 2: .*{reason}.*line 4") as error:
        read_answers(tmp_path)
    assert "answers.jsonl" in str(error.value)


def test_a_torn_finished_file_is_no_unfinished_one(tmp_path):
    good = json.dumps(dataclasses.asdict(answer(0)))
    (tmp_path / "answers.jsonl").write_text(f"{good}\n{good[:50]}")
    with pytest.raises(Ego2ExoError, match="line 2 is torn"):
        read_answers(tmp_path)


def test_no_folder():
    with pytest.raises(Ego2ExoError, match="nowhere is no folder"):
        read_answers("nowhere")


def test_the_key_is_the_content_alone():
    key = answer_key("v", 1, None, "q", "t", {"a": 1, "b": 2})
    assert key == answer_key("v", 1.0, None, "q", "t", {"b": 2, "a": 1})
    assert key == "87a4213e4f4310a4775a258c41f17b9e", "a new key would ask every finished run again"
    others = [
        answer_key(*values)
        for values in (
            ("w", 1, None, "q", "t", {"a": 1, "b": 2}),
            ("v", 2, None, "q", "t", {"a": 1, "b": 2}),
            ("v", 1, 2, "q", "t", {"a": 1, "b": 2}),
            ("v", None, 1, "q", "t", {"a": 1, "b": 2}),
            ("v", 1, None, "r", "t", {"a": 1, "b": 2}),
            ("v", 1, None, "q", "u", {"a": 1, "b": 2}),
            ("v", 1, None, "q", "t", {"a": 1, "b": 3}),
        )
    ]
    assert len({key, *others}) == 8


def top(length=3, k=2):
    ids = np.arange(length * k, dtype=np.int32).reshape(length, k)
    return TopK(ids, -ids.astype(np.float16) / 3, ids[:, 0])


def test_top_k_come_back(tmp_path):
    path = save_top_k(tmp_path, "abc", top())
    assert path == top_k_path(tmp_path, "abc") == tmp_path / "top_k" / "ab" / "abc.npz"
    assert [file.name for file in path.parent.iterdir()] == ["abc.npz"]
    found = load_top_k(tmp_path, "abc")
    for name, kind in (("ids", np.int32), ("logits", np.float16), ("tokens", np.int32)):
        assert getattr(found, name).dtype == kind
        assert np.array_equal(getattr(found, name), getattr(top(), name))


def test_top_k_missing_damaged_or_of_other_shapes(tmp_path):
    with pytest.raises(Ego2ExoError, match="no top-k logits.*--top-k"):
        load_top_k(tmp_path, "abc")
    path = save_top_k(tmp_path, "abc", top())
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(Ego2ExoError, match="is damaged.*delete it"):
        load_top_k(tmp_path, "abc")
    with pytest.raises(Ego2ExoError, match=r"ids \(3, 2\), logits \(2, 2\)"):
        save_top_k(tmp_path, "abd", dataclasses.replace(top(), logits=top(2).logits))
    assert not top_k_path(tmp_path, "abd").exists()
