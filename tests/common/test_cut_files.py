"""A file cut at any byte: no earlier record is lost, or its reader refuses it by name; writing leaves the old file."""

import json

import numpy as np
import pytest

from llava_ego2exo.common.files import HASHES, _stored_hashes, video_hashes, write_atomic
from llava_ego2exo.common.jsonl import AppendFile
from llava_ego2exo.distill.pairs.egoexo4d import write_missing
from llava_ego2exo.distill.pairs.file import read_pairs, write_pairs
from llava_ego2exo.distill.pairs.pair import Pair
from llava_ego2exo.distill.targets.samples import write_samples
from llava_ego2exo.distill.teach.store import (
    Answer,
    TopK,
    answer_store,
    load_top_k,
    open_folder,
    read_answers,
    save_top_k,
    write_failures,
)
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.evaluation.judge.client import CachedAnswer, read_cache
from llava_ego2exo.evaluation.plan import read_manifest
from llava_ego2exo.host.preflight.data import read_samples


def answer(number):
    return Answer(
        key=f"{number:032x}", segment=f"s{number}", split="train", kind="temporal", query="What?",
        answer="Sie gießt \N{GRINNING FACE}\n" * number, flags=("cut",), tokens=number, video="ab", start_s=None,
        end_s=1.5, teacher="t", settings={"bits": 16},
    )  # fmt: skip


ANSWERS = [answer(number) for number in range(3)]
KEPT = [CachedAnswer(f"{number:032x}", "choice", "{é}", "m", {"seed": 1}) for number in range(3)]
SAMPLES = [{"id": str(n), "conversations": [{"from": "human", "value": 'é ]}"'}]} for n in range(3)]
MANIFEST = {"teacher": {"fingerprint": "t"}, "settings": {"bits": 16}, "top_k": 0, "seed": 0, "queries": {"a": ["é"]}}
RUN = {"models": [{"name": "m", "checkpoint": "c"}]}


def pairs_of(folder):
    return [Pair(f"é{n}", folder / f"{n}e.mp4", {"exo1": folder / f"{n}x.mp4"}) for n in range(3)]


def stored(store, records):
    with store:
        store.append(records)
    return store.path


def hashed(folder):
    for name in "ab":
        (folder / name).write_text(name)
    video_hashes([str(folder / "a"), str(folder / "b")], folder, progress=False)
    return folder / HASHES


def logits(folder):
    ids = np.arange(6, dtype=np.int32).reshape(3, 2)
    return save_top_k(folder, "abc", TopK(ids, -ids.astype(np.float16), ids[:, 0]))


# What is written -> (how, how it is read as a list of records, whether each whole line must be read).
LINES, WHOLE = True, False
KINDS = {
    "answers while teach runs": (lambda f: stored(answer_store(f).part(), ANSWERS), read_answers, LINES),
    "answers of a finished run": (lambda f: answer_store(f).finish(ANSWERS), read_answers, LINES),
    "answers of a judge": (
        lambda f: stored(AppendFile(f / "judge_cache.jsonl"), KEPT),
        lambda f: list(read_cache(f / "judge_cache.jsonl").values()), LINES,
    ),
    "pairs": (lambda f: write_pairs(f / "p.jsonl", pairs_of(f)), lambda f: read_pairs(f / "p.jsonl"), LINES),
    "training file": (
        lambda f: write_samples(f / "t.json", SAMPLES), lambda f: read_samples(str(f / "t.json")), WHOLE,
    ),
    "manifest of answers": (
        lambda f: open_folder(f, MANIFEST) or answer_store(f).finish(ANSWERS[:1]) and f / "manifest.json",
        lambda f: [open_folder(f, MANIFEST)], WHOLE,
    ),
    "manifest of an evaluation": (
        lambda f: write_atomic(f / "run.json", json.dumps(RUN) + "\n"), lambda f: [read_manifest(f)], WHOLE,
    ),
    "stored logits": (logits, lambda f: [{n: v.tolist() for n, v in vars(load_top_k(f, "abc")).items()}], WHOLE),
    "hashes of videos": (hashed, lambda f: list(_stored_hashes(f / HASHES).items()), LINES),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_cut(kind, tmp_path):
    write, read, by_line = KINDS[kind]
    path = write(tmp_path)
    content, whole = path.read_bytes(), read(tmp_path)
    assert len(whole) in (1, 2, 3)
    line = content.find(b"\n")
    for cut in {*range(0, len(content), len(content) // 20 + 1), line, line + 1, len(content) - 1} - {-1, len(content)}:
        path.write_bytes(content[:cut])
        complete = content[:cut].count(b"\n") if by_line else 0
        try:
            found = read(tmp_path)
        except Ego2ExoError as error:
            assert path.name in str(error)
        else:  # every record of a complete line, and perhaps one that lacks its line's end alone
            assert found == whole or (by_line and len(found) >= complete and found == whole[: len(found)])


WRITERS = {
    **{kind: KINDS[kind][0] for kind in ("answers of a finished run", "pairs", "training file", "stored logits")},
    "failures of teach": lambda f: write_failures(f, [{"segment": "a"}]) or f / "failures.json",
    "missing videos": lambda f: write_missing(f, {"/a.mp4": "u1"}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_write_that_fails_leaves_the_old_file(kind, tmp_path, monkeypatch):
    path = WRITERS[kind](tmp_path)
    before = path.read_bytes()
    names = sorted(file.name for file in path.parent.iterdir())

    def full(*_args):
        raise OSError(28, "No space left on device")

    for step in ("os.replace", "os.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(step, full)
            with pytest.raises(Ego2ExoError, match="No space left on device"):
                WRITERS[kind](tmp_path)
        assert path.read_bytes() == before and sorted(file.name for file in path.parent.iterdir()) == names


def test_stored_logits_with_a_changed_byte(tmp_path):
    path = logits(tmp_path)
    content = path.read_bytes()
    for place in range(0, len(content), len(content) // 30):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            load_top_k(tmp_path, "abc")
        except Ego2ExoError as error:
            assert "abc.npz" in str(error)
