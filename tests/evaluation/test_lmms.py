"""lmms-eval's tasks, without lmms-eval: what is rendered, what its functions give, how requests go through a model."""

import importlib
import json
import math
import pkgutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.evaluation.items import DESCRIPTION, Item
from llava_ego2exo.evaluation.plan import prompt_of
from llava_ego2exo.evaluation.replies import text as reply_text
from llava_ego2exo.host.inference.settings import InferenceSettings
from llava_ego2exo.lmms import generation, render, tasks
from llava_ego2exo.video import read_video
from tests.videos import render_clip

OPTIONS = {"A": "cutting", "B": "washing", "C": "pouring from the kettle"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two real clips, and one cut in half."""
    folder = tmp_path_factory.mktemp("clips: a & 'b'")
    for name, colour in (("one.mp4", "red"), ("two.mp4", "blue")):
        render_clip(folder / name, colour, "left")
    (folder / "half.mp4").write_bytes((folder / "one.mp4").read_bytes()[:2000])
    return folder


def choice(clips, number=0, **changes):
    values = {
        "id": f"exo:one:{number}", "benchmark": "ego-in-exo", "category": "Hands", "view": "exo", "video": "one",
        "question": "What does the person do?", "choices": OPTIONS, "answer": "ABC"[number % 3],
        "row": f"exo:one:{number}", "source": f"f.json, row {number}", "path": str(clips / "one.mp4"), **changes,
    }  # fmt: skip
    return Item(**values)


def described(clips, part):
    further = {"benchmark": "adlx-charades-desc", "category": "Charades-Description", "view": "", "choices": {}}
    further |= {"question": f"Describe the {part}.", "answer": "A person cuts bread.", "kind": DESCRIPTION}
    return choice(clips, id=f"d:{part}", row="d", part=part, **further)


def load(folder, name):
    """A task's YAML with `!function a.b.c` read as lmms-eval does: as what it names."""
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor("!function", lambda loader, node: pkgutil.resolve_name(loader.construct_scalar(node)))
    return yaml.load((folder / f"{name}.yaml").read_text(encoding="utf-8"), loader)  # noqa: S506


def data(task):
    text = Path(task["dataset_kwargs"]["data_files"][task["test_split"]]).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def scores(task, replies):
    """What lmms-eval does with replies: every metric over all rows."""
    results = [task["process_results"](row, [reply]) for row, reply in zip(data(task), replies, strict=True)]
    metrics = {metric["metric"]: metric["aggregation"] for metric in task["metric_list"]}
    assert all(result.keys() == metrics.keys() for result in results)
    return {name: mean([result[name] for result in results]) for name, mean in metrics.items()}


def test_a_task_is_whole_and_names_everything_absolutely(clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    items = [choice(clips, n, category="Häände & <so>" if n % 2 else 'say "it": x') for n in range(6)]
    items[5] = replace(items[5], choices=dict(zip("ABCDEF", "uvwxyz", strict=True)))
    items += [replace(items[0], view="ego", id="ego:0")]
    said = render.render_tasks("out dir", items, "ego-in-exo")
    task = load(tmp_path / "out dir", "ego2exo_perception_exo")
    assert task["task"] == "ego2exo_perception_exo" and task["output_type"] == "generate_until"
    assert Path(task["dataset_kwargs"]["data_files"]["test"]).is_absolute()
    assert task["doc_to_visual"] is tasks.doc_to_visual and task["process_results"] is tasks.choice_results
    assert task["generation_kwargs"] == {
        "max_new_tokens": 64, "do_sample": False, "temperature": 0, "num_beams": 1, "until": [],
    }  # fmt: skip
    found = data(task)
    assert [row["id"] for row in found] == [item.id for item in items[:6]]
    (ego,) = data(load(tmp_path / "out dir", "ego2exo_perception_ego"))
    kinds = [{name: type(value) for name, value in row.items()} for row in (*found, ego)]
    assert all(kind == kinds[0] for kind in kinds) and ego["id"] == "ego:0"
    assert all(Path(row["video"]).is_file() and Path(row["video"]).is_absolute() for row in found)
    assert f"'{tmp_path}/out dir'" in said and "--tasks ego2exo_perception_exo,ego2exo_perception_ego" in said


def test_benchmarks_rendered_one_after_the_other_join_the_groups(clips, tmp_path):
    render.render_tasks(tmp_path, [choice(clips)], "ego-in-exo")
    assert load(tmp_path, "ego2exo")["task"] == ["ego2exo_perception_exo"]
    assert not (tmp_path / "ego2exo_adlx.yaml").exists()
    for name in ("adlx-tsu-tc", "adlx-lemma-tc"):
        render.render_tasks(tmp_path, [choice(clips, benchmark=name, view="")], name)
    render.render_tasks(tmp_path, [described(clips, "main")], "adlx-charades-desc")
    assert load(tmp_path, "ego2exo")["task"] == ["ego2exo_adlx", "ego2exo_adlx_charades_desc", "ego2exo_perception_exo"]
    group = load(tmp_path, "ego2exo_adlx")
    assert group["task"] == ["ego2exo_adlx_lemma_tc", "ego2exo_adlx_tsu_tc"]
    assert {one["metric"] for one in group["aggregate_metric_list"]} == {"acc", "unparsed_rate"}
    once = {file: file.read_bytes() for file in tmp_path.rglob("*.*") if file.is_file()}
    render.render_tasks(tmp_path, [choice(clips)], "ego-in-exo")
    assert once == {file: file.read_bytes() for file in tmp_path.rglob("*.*") if file.is_file()}
    # lmms-eval parses every .yaml, so a template must not be one.
    assert not list(render.template_folder().rglob("*.yaml"))


def test_a_part_of_a_video_becomes_a_clip(clips, tmp_path):
    part = choice(clips, 0, benchmark="adlx-lemma-tc", view="", start_s=1.0, end_s=3.0)
    items = [part, replace(part, id="same part"), replace(part, id="whole", start_s=None, end_s=None)]
    render.render_tasks(tmp_path, items, "adlx-lemma-tc")
    first, second, whole = (row["video"] for row in data(load(tmp_path, "ego2exo_adlx_lemma_tc")))
    assert first == second and Path(first).parent == tmp_path / "clips"
    assert read_video(first).duration == pytest.approx(2) and whole == part.path


@pytest.mark.parametrize(
    ("change", "token"),
    [
        ({"path": "/nowhere/x.mp4"}, "/nowhere/x.mp4 (f.json, row 0)"),
        ({"start_s": 2.0, "end_s": 60.0}, "cannot be cut out"),
        ({"part": "3"}, "described one by one"),
    ],
)
def test_what_cannot_be_rendered_is_refused(clips, tmp_path, change, token):
    with pytest.raises(Ego2ExoError) as caught:
        render.render_tasks(tmp_path / "out", [choice(clips, **change)], "ego-in-exo")
    assert token in caught.value.given and caught.value.remedy and not list(tmp_path.rglob("*.yaml"))


def test_a_row_gives_its_item_and_prompt_back():
    item = Item("i", "b", "c", "", "/v.mp4", "Wäs\n?", choices={"B": "x", "A": " y"}, answer="A", path="/v.mp4")
    row = json.loads(json.dumps(tasks.rows_of([item])[0]))
    assert tasks.item_of(row) == item
    assert tasks.doc_to_text(row, {"anything": 1}) == prompt_of(item)


def test_accuracy_by_category(clips, tmp_path):
    items = [choice(clips, n, category="Hands" if n < 4 else "Objects!") for n in range(6)]
    render.render_tasks(tmp_path, items, "ego-in-exo")
    found = scores(load(tmp_path, "ego2exo_perception_exo"), ["A", "B", "A", "what?", "(B) washing", ""])
    assert found == {
        "acc": pytest.approx(3 / 6), "unparsed_rate": pytest.approx(2 / 6), "acc_hands": pytest.approx(2 / 4),
        "acc_objects": pytest.approx(1 / 2),
    }  # fmt: skip


def test_categories_that_look_alike_stay_apart_and_one_that_was_not_asked_has_no_number(clips):
    rows = tasks.rows_of([choice(clips, n, category=name) for n, name in enumerate(["a b", "A-B", "a_b_2", "", "!"])])
    assert len(set(rows[0]["groups"])) == 5 and [row["group"] for row in rows] == rows[0]["groups"]
    assert all(group and group.replace("_", "").isalnum() and group.isascii() for group in rows[0]["groups"])
    assert math.isnan(tasks.mean([tasks.choice_results(rows[0], ["A"])[f"acc_{rows[1]['group']}"]]))


def test_a_missing_stemmer_stops_before_anything_is_asked(clips, monkeypatch):
    for cached in (reply_text._stem, reply_text._stemmer, tasks._require_parser):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, "snowballstemmer", None)
    with pytest.raises(SystemExit, match="snowballstemmer"):
        tasks.doc_to_text(tasks.rows_of([choice(clips)])[0])


def test_descriptions(clips, tmp_path, monkeypatch):
    class Rouge:
        """In place of that of pycocoevalcap, which comes with lmms-eval: share of the reference's words in a reply."""

        def calc_score(self, replies, references):
            return sum(word in replies[0].split() for word in references[0].split()) / len(references[0].split())

    for name in ("pycocoevalcap", "pycocoevalcap.rouge", "pycocoevalcap.rouge.rouge"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["pycocoevalcap.rouge.rouge"].Rouge = Rouge
    render.render_tasks(tmp_path, [described(clips, "main"), described(clips, "consistency1")], "adlx-charades-desc")
    task = load(tmp_path, "ego2exo_adlx_charades_desc")
    assert task["generation_kwargs"]["max_new_tokens"] == 256
    assert [tasks.doc_to_text(row) for row in data(task)] == ["Describe the main.", "Describe the consistency1."]
    assert scores(task, ["A PERSON cuts\n\nbread.", " "]) == {
        "rouge_l": 0.5, "rouge_l_main": 1.0, "rouge_l_consistency1": 0.0, "empty_rate": 0.5, "words": 2.0,
    }  # fmt: skip


def test_a_clip_that_does_not_decode_ends_the_run(clips):
    row = tasks.rows_of([choice(clips)])[0]
    assert tasks.doc_to_visual(row) == [str(clips / "one.mp4")]
    with pytest.raises(SystemExit, match=rf"{row['id']}.*half.mp4"):
        tasks.doc_to_visual({**row, "video": str(clips / "half.mp4")})


class Answerer:
    """Records which clips and questions came together."""

    def __init__(self, too_long=()):
        self.calls, self.too_long = [], too_long

    def preprocess(self, frames):
        return frames

    def answer(self, pixels, texts):
        self.calls.append((self.max_new_tokens, [len(own) for own in texts]))
        return [
            Ego2ExoError("takes too many positions") if self.too_long and text[0] in self.too_long
            else [types.SimpleNamespace(text=f"{one}|{int(clip[0].mean())}") for one in text]
            for clip, text in zip(pixels, texts, strict=True)
        ]  # fmt: skip


def ask(clips, asked, **answerer):
    made = Answerer(**answerer)
    questions = [generation.GenerationRequest(str(clips / name), text, length) for name, text, length in asked]
    return made, generation.generate_replies(made, InferenceSettings("qwen_1_5", 2), questions, 2, quiet=True)


def test_a_video_is_read_once_and_replies_keep_their_order(clips):
    names = ("one", "two", "one", "two", "one")
    asked = [(f"{name}.mp4", text, 8 if text == "d" else 64) for name, text in zip(names, "abcde", strict=True)]
    answerer, replies = ask(clips, asked)
    texts, shown = zip(*(reply.split("|") for reply in replies), strict=True)
    assert "".join(texts) == "abcde" and answerer.calls == [(64, [3, 1]), (8, [1])]
    assert shown[0] != shown[1] and shown == (shown[0], shown[1], shown[0], shown[1], shown[0])


def test_no_question_is_answered_blind(clips):
    with pytest.raises(Ego2ExoError, match="half.mp4"):
        ask(clips, [("one.mp4", "a", 64), ("half.mp4", "b", 64)])
    with pytest.raises(Ego2ExoError, match=r"two.mp4: takes too many positions"):
        ask(clips, [("one.mp4", "a", 64), ("two.mp4", "b", 64)], too_long=("b",))


def test_only_greedy_replies_are_given():
    assert generation.max_new_tokens({"do_sample": False, "temperature": 0, "until": ["\n\n"]}, "t") == 1024
    with pytest.raises(Ego2ExoError, match="temperature=0.7, num_beams=4"):
        generation.max_new_tokens({"temperature": 0.7, "num_beams": 4, "max_new_tokens": 9}, "t")


@pytest.fixture
def entry(monkeypatch):
    """The model entry's module, with lmms-eval's base class left out."""
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["lmms_eval.api.model"].lmms = type("lmms", (), {"rank": 0})
    monkeypatch.delitem(sys.modules, "llava_ego2exo.lmms.model", raising=False)
    yield importlib.import_module("llava_ego2exo.lmms.model")
    sys.modules.pop("llava_ego2exo.lmms.model", None)


def test_wrong_arguments_end_the_process(entry):
    for token, arguments in {
        "colour, attn": {"pretrained": "x", "colour": "red", "attn": 1},
        "--batch_size auto": {"pretrained": "x", "batch_size": "auto"},
        "/nowhere/x": {"pretrained": "/nowhere/x"},
    }.items():
        with pytest.raises(SystemExit, match=token):
            entry.LlavaEgo2Exo(**arguments)


def test_requests_go_through_the_entry(entry, clips, monkeypatch):
    import torch

    answerer = Answerer()
    answerer.model = types.SimpleNamespace(device=torch.device("cpu"))
    monkeypatch.setattr(entry, "_settings", lambda *given, **others: InferenceSettings("qwen_1_5", 2))
    monkeypatch.setattr(entry, "_load", lambda *given: answerer)
    with pytest.raises(SystemExit, match="--device cuda:3"):
        entry.LlavaEgo2Exo("x", device="cuda:3")
    made = entry.LlavaEgo2Exo("x", batch_size="2", device="cpu")
    docs = tasks.rows_of([choice(clips, n) for n in range(3)])
    made.task_dict = {"t": {"test": docs}}

    def request(number, visual=tasks.doc_to_visual):
        wanted = {"max_new_tokens": 8, "until": []}
        return types.SimpleNamespace(args=(tasks.doc_to_text(docs[number]), wanted, visual, number, "t", "test"))

    replies = made.generate_until([request(2), request(0)])
    assert [reply.rpartition("|")[0] for reply in replies] == [tasks.doc_to_text(docs[2]), tasks.doc_to_text(docs[0])]
    with pytest.raises(SystemExit, match="one path of a video"):
        made.generate_until([request(0, lambda doc: ["a", "b"])])
    with pytest.raises(SystemExit, match="half.mp4"):
        made.generate_until([request(0, lambda doc: [str(clips / "half.mp4")])])
    with pytest.raises(SystemExit, match="loglikelihood"):
        made.loglikelihood([request(0)])
