"""The answers on disk survive a kill at any byte, and name what is damaged."""

import dataclasses
import json

import numpy as np
import pytest

from llava_ego2exo.distill.teach.store import (
    Answer,
    TopK,
    answer_key,
    answer_store,
    load_top_k,
    read_answers,
    save_top_k,
    top_k_path,
)
from llava_ego2exo.errors import Ego2ExoError


def answer(number: int, **changes) -> Answer:
    values = {
        "key": f"{number:032x}", "segment": f"s{number}", "split": "train", "kind": "temporal", "query": "What?",
        "answer": "Erst schält\nsie den 🥕.", "flags": ("cut",), "tokens": 7, "video": "0" * 64, "start_s": None,
        "end_s": 2.5, "teacher": "t" * 32, "settings": {"template": "v1"}, **changes,
    }  # fmt: skip
    return Answer(**values)


def test_what_is_appended_is_read_and_the_finished_file_replaces_the_parts(tmp_path):
    folder = tmp_path / "new"
    for rank in (0, 1):
        with answer_store(folder).part(rank) as store:
            store.append([answer(rank), answer(2), answer(rank, answer="again")])
            assert answer(rank, answer="again") in read_answers(folder), "on disk before the file is closed"
    part = store.path.read_bytes()
    assert read_answers(folder) == [answer(n, answer="again") if n < 2 else answer(2) for n in (0, 2, 1)]
    answer_store(folder).finish([answer(1), answer(0)])
    assert [path.name for path in folder.iterdir()] == ["answers.jsonl"]
    assert read_answers(folder) == [answer(1), answer(0)]
    # A kill between the new file and the removal of the old parts doubles nothing.
    store.path.write_bytes(part)
    assert len(read_answers(folder)) == 3


def test_damaged_lines_and_a_missing_folder_are_named(tmp_path):
    good = dataclasses.asdict(answer(0))
    lines = (good, {**good, "extra": 1}, {"key": "k"}, {**good, "tokens": "7"})
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n{torn")
    with pytest.raises(Ego2ExoError, match="answers.jsonl: 4 damaged.*2: .*extra.*3: .*answer.*4: tokens"):
        read_answers(tmp_path)
    with pytest.raises(Ego2ExoError, match="nowhere"):
        read_answers("nowhere")


def test_the_key_is_the_content_alone():
    key = answer_key("v", 1, None, "q", "t", {"a": 1, "b": 2})
    assert key == answer_key("v", 1.0, None, "q", "t", {"b": 2, "a": 1})
    assert key == "87a4213e4f4310a4775a258c41f17b9e", "a new key would ask every finished run again"
    first = ("v", 1, None, "q", "t", {"a": 1, "b": 2})
    changes = ("w", 2, 2, "r", "u", {"a": 1, "b": 3})
    others = [answer_key(*first[:n], change, *first[n + 1 :]) for n, change in enumerate(changes)]
    assert len({key, *others}) == 7


def top(length=3, k=2):
    ids = np.arange(length * k, dtype=np.int32).reshape(length, k)
    return TopK(ids, -ids.astype(np.float16) / 3, ids[:, 0])


def test_top_k_come_back_and_what_is_damaged_or_of_other_shapes_is_named(tmp_path):
    path = save_top_k(tmp_path, "abc", top())
    assert path == top_k_path(tmp_path, "abc") == tmp_path / "top_k" / "ab" / "abc.npz"
    assert [file.name for file in path.parent.iterdir()] == ["abc.npz"]
    found = load_top_k(tmp_path, "abc")
    for name, kind in (("ids", np.int32), ("logits", np.float16), ("tokens", np.int32)):
        assert getattr(found, name).dtype == kind
        assert np.array_equal(getattr(found, name), getattr(top(), name))
    with pytest.raises(Ego2ExoError, match="--top-k"):
        load_top_k(tmp_path, "abd")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(Ego2ExoError, match="abc.npz"):
        load_top_k(tmp_path, "abc")
    save_top_k(tmp_path, "abd", dataclasses.replace(top(), logits=top(2).logits))
    with pytest.raises(Ego2ExoError, match=r"ids \(3, 2\), logits \(2, 2\)"):
        load_top_k(tmp_path, "abd")
