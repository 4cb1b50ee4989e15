"""Rows of the training file: what cannot train is counted before any weight loads, what LLaVA trains is let through."""

import copy
import json
from dataclasses import replace

import pytest

from llava_ego2exo.config import Ego2ExoConfig
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.fixes.data import written_as
from llava_ego2exo.host.preflight import files
from llava_ego2exo.host.preflight.data import RowCheck, RowRules, check_data, read_samples
from llava_ego2exo.host.preflight.templates import PreprocessPreview, row_rules
from llava_ego2exo.host.settings import Settings
from llava_ego2exo.host.training.rows import host_row
from tests.videos import sample

GOOD = sample("a.mp4", "That.")


def turns(*spoken):
    return {**GOOD, "conversations": [{"from": role, "value": value} for role, value in spoken]}


HUMAN, GPT = ("human", "<image>\nWhat?"), ("gpt", "That.")
# kind of the fault; what is said of it; the row
WRONG = {
    "a list": ("form", "is a list", [1]),
    "null": ("form", "is a NoneType", None),
    "no conversations": ("form", "no conversations", {"video": "a.mp4"}),
    "empty conversations": ("form", "no conversations", {**GOOD, "conversations": []}),
    "a turn that is text": ("form", "turn 1 without", {**GOOD, "conversations": [GOOD["conversations"][0], "That."]}),
    "no from": ("form", "turn 0 without", {**GOOD, "conversations": [{"value": "?"}]}),
    "OpenAI's keys": ("form", "turn 0 without", {**GOOD, "conversations": [{"role": "user", "content": "?"}]}),
    "other roles": ("role", "turn 0 from 'user'", turns(("user", "<image>\n?"), ("assistant", "!"))),
    "capital": ("role", "turn 0 from 'Human'", turns(("Human", "<image>\n?"), GPT)),
    "no role": ("role", "turn 1 from None", turns(HUMAN, (None, "!"))),
    "a role that is a list": ("role", "turn 1 from ['gpt']", turns(HUMAN, (["gpt"], "!"))),
    "late system": ("role", "turn 2 from 'system'", turns(HUMAN, GPT, ("system", "Be brief."))),
    "null value": ("value", "NoneType as value of turn 1", turns(HUMAN, ("gpt", None))),
    "number": ("value", "int as value", turns(HUMAN, ("gpt", 3))),
    "parts": ("value", "list as value of turn 0", turns(("human", [{"type": "text"}]), GPT)),
    "empty answer": ("value", "empty value in turn 1", turns(HUMAN, ("gpt", " \n"))),
    "empty query": ("value", "empty value in turn 2", turns(HUMAN, GPT, ("human", ""), GPT)),
    "twice human": ("order of turns", "two human turns", turns(HUMAN, ("human", "And?"), GPT)),
    "twice gpt": ("order of turns", "two gpt turns", turns(HUMAN, GPT, GPT)),
    "no answer": ("order of turns", "no gpt turn", turns(HUMAN)),
    "gpt alone": ("order of turns", "no gpt turn", turns(GPT)),
    "system alone": ("order of turns", "no gpt turn", turns(("system", "Be brief."))),
    "no placeholder": ("placeholder", "0 <image>", turns(("human", "What?"), GPT)),
    "two placeholders": ("placeholder", "2 <image>", turns(("human", "<image><image>?"), GPT)),
    "two of video": ("placeholder", "2 <image>", turns(("human", "<video>\n?\n<video>"), GPT)),
    "in the answer": ("placeholder", "in a gpt turn", turns(("human", "What?"), ("gpt", "<image>\nThat."))),
    "in both": ("placeholder", "in a gpt turn", turns(HUMAN, ("gpt", "<image>"))),
    "<video> in the answer": ("placeholder", "0 <image>", turns(("human", "What?"), ("gpt", "<video>\nThat."))),
    "in the system turn": ("placeholder", "in a system turn", turns(("system", "<image>"), HUMAN, GPT)),
    "no key": ("placeholder", "a <image> placeholder but", {"conversations": GOOD["conversations"]}),
    "no key of <video>": ("placeholder", "a <video> placeholder but",
                          {"conversations": turns(("human", "<video>\n?"), GPT)["conversations"]}),
    "empty path": ("file", "has '' as video", {**GOOD, "video": ""}),
    "null path": ("file", "has None as video", {**GOOD, "video": None}),
    "several videos": ("file", "has a list as video", {**GOOD, "video": ["a.mp4"]}),
    "folder": ("file", "is a folder", {**GOOD, "video": "."}),
    "missing": ("file", "is not there", {**GOOD, "video": "gone.mp4"}),
    "pipe": ("file", "is a device or pipe", {**GOOD, "video": "pipe"}),
    "null byte": ("file", "is not there", {**GOOD, "video": "a\0.mp4"}),
    "empty image": ("file", "has '' as image", {"image": "", "conversations": GOOD["conversations"]}),
    "no images": ("file", "has a list as image", {"image": [], "conversations": GOOD["conversations"]}),
    "both": ("form", "both video and image", {**GOOD, "image": None}),
}  # fmt: skip
# What LLaVA trains: the row, and what is said of it if it leaves out something.
RIGHT = {
    "text": ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}, None),
    "HTML": ({"conversations": [{"from": "human", "value": "What does <video> do in HTML?"},
                                {"from": "gpt", "value": "<video> and <image> are tags."}]}, None),
    "HTML code": ({"conversations": [{"from": "human", "value": "<video>\n<source src=a>\n</video>\nWhat is it?"},
                                     {"from": "gpt", "value": "A player."}]}, None),
    "<video> as text beside the placeholder": (turns(("human", "<image>\nWhat is a <video>?"), GPT), None),
    "<video> before": (turns(("human", "<video>\nWhat?"), GPT), None),
    "<video> behind, without id": (
        {"video": "a.mp4", "conversations": turns(("human", "What? <video>"), GPT)["conversations"]}, None),
    "a later turn": (turns(("human", "Hi"), GPT, HUMAN, GPT), None),
    "system": (turns(("system", "Be brief."), HUMAN, GPT), None),
    "empty system": (turns(("system", ""), HUMAN, GPT), None),
    "gpt first": (turns(("gpt", "Hello."), HUMAN, GPT), "begin with a gpt turn"),
    "human last": (turns(HUMAN, GPT, ("human", "Thanks.")), "end with a human turn"),
}  # fmt: skip


@pytest.fixture
def check(tmp_path):
    """Check rows of one file; `a.mp4` is there."""
    import os

    (tmp_path / "a.mp4").touch()
    os.mkfifo(tmp_path / "pipe")

    def run(*rows, rules=None):
        (tmp_path / "t.json").write_text(json.dumps(rows))
        values = {"data_path": str(tmp_path / "t.json"), "video_folder": str(tmp_path)}
        return check_data(Settings(values, frozenset(), {}), Ego2ExoConfig(), None, rules)

    return run


@pytest.mark.parametrize("name", WRONG)
def test_a_row_that_cannot_train(name, check, tmp_path):
    kind, words, row = WRONG[name]
    with pytest.raises(Ego2ExoError) as error:
        check(GOOD, row, GOOD)
    lines = error.value.given.splitlines()
    (place,) = [number for number, line in enumerate(lines) if words in line]
    assert lines[place].startswith(f"  {tmp_path / 't.json'}[1]: ")
    assert [line for line in lines[:place] if not line.startswith("  ")][-1].endswith(f" x {kind}:")
    assert "in 1 of 3 rows" in error.value.given and "[0]" not in error.value.given
    assert ("--video_folder" in error.value.remedy) == (words in ("is a folder", "is not there", "is a device or pipe"))
    assert "--image_folder" not in error.value.remedy


@pytest.mark.parametrize("name", RIGHT)
def test_a_row_that_llava_trains(name, check, capsys):
    row, note = RIGHT[name]
    assert len(check(GOOD, row)) == 2
    assert (f"1 of 2 rows {note}" in capsys.readouterr().out) if note else not capsys.readouterr().out


def test_all_faults_are_counted_by_kind(check):
    missing, empty = {**GOOD, "video": "gone.mp4"}, turns(HUMAN, ("gpt", ""))
    with pytest.raises(Ego2ExoError) as error:
        check(*[GOOD] * 400, *[missing] * 6, empty, [1])
    head, *lines = error.value.given.splitlines()
    assert head.startswith("8 fault(s) in 8 of 408 rows")
    assert [line for line in lines if " x " in line] == ["6 x file:", "1 x value:", "1 x form:"]
    assert "t.json[400]: " in lines[1] and "t.json[404]" in lines[5] and lines[6] == "  and 1 more"
    assert "t.json[406]: " in lines[8]


def test_a_folder_that_the_paths_begin_with_too(tmp_path, monkeypatch):
    (tmp_path / "exo" / "deep").mkdir(parents=True)
    (tmp_path / "exo" / "deep" / "a.mp4").touch()
    monkeypatch.chdir(tmp_path / "exo")
    for folder, file, above in (
        (f"{tmp_path}/exo", "exo/deep/a.mp4", f"{tmp_path}"), ("../exo/deep/", "exo/deep/a.mp4", ".."),
        ("deep", "deep/a.mp4", "."), (None, "exo/deep/a.mp4", ".."), ("deep", "deep/b.mp4", None), ("deep", "b", None),
    ):  # fmt: skip
        check = RowCheck({"video_folder": folder, "image_folder": None}, Ego2ExoConfig())
        assert check.faults({**GOOD, "video": file}) and check.missing_in == {"video_folder": above}


@pytest.mark.parametrize("first", ["user", "assistant", "Human"])
def test_a_wrong_role_is_the_only_fault(first):
    """Of rows whose placeholder could not be found for that reason; what is named may stand at this turn."""
    rules = RowRules(roles=("human", "gpt", "user", "assistant", "system"), alternating=False)
    check = RowCheck({"video_folder": None, "image_folder": None}, Ego2ExoConfig(), rules)
    check.files.kind = lambda path: "file"
    ((kind, text),) = check.faults(turns((first, "<video>\nWhat?"), GPT))
    assert kind == "role" and f"from {first!r}" in text and text.partition("reads ")[2] in ("human", "human or system")


def test_json_lines_named_json(tmp_path):
    file = tmp_path / "t.json"
    file.write_text(f"{json.dumps(GOOD)}\n{json.dumps(GOOD)}\n")
    with pytest.raises(Ego2ExoError) as error:
        read_samples(str(file))
    assert ".jsonl" in error.value.remedy and "YAML" in error.value.remedy
    file.write_text("[1,\n2")
    with pytest.raises(Ego2ExoError) as error:
        read_samples(str(file))
    assert ".jsonl" not in error.value.remedy


def test_the_disk_is_asked_for_a_folder_not_for_each_file(tmp_path, monkeypatch):
    for number in range(100):
        (tmp_path / f"{number}.mp4").touch()
    (tmp_path / "link.mp4").symlink_to("0.mp4")
    (tmp_path / "dangling.mp4").symlink_to("nowhere")
    asked, original = [], files._kind_of
    monkeypatch.setattr(files, "_kind_of", lambda path: asked.append(path) or original(path))
    check = RowCheck({"video_folder": str(tmp_path), "image_folder": None}, Ego2ExoConfig())
    found = [check.faults({**GOOD, "video": f"{number % 100}.mp4"}) for number in range(1000)]
    assert not any(found) and len(asked) == 8
    assert not check.faults({**GOOD, "video": "link.mp4"}) and not check.faults({**GOOD, "video": "./1.mp4"})
    assert "not there" in check.faults({**GOOD, "video": "dangling.mp4"})[0][1]


def test_a_late_row_is_refused_before_weights_load(world, train, no_weights, tmp_path):
    """Between the rows that are tokenised for a rehearsal too."""
    good = json.loads(world.data.read_text())[0]
    late = [{"from": "user", "value": "<image>\n?"}, {"from": "assistant", "value": "!"}]
    rows = [good] * 301 + [{**good, "conversations": late}] + [good] * 298
    (tmp_path / "t.json").write_text(json.dumps(rows))
    with pytest.raises(Ego2ExoError) as error:
        train(tmp_path / "out", data_path=tmp_path / "t.json")
    assert "2 x role" in error.value.given and "t.json[301]" in error.value.given
    assert not (tmp_path / "out").exists()


def test_one_row_of_each_shape_is_rehearsed(world, train, no_weights, tmp_path):
    """By Vicuna's template LLaVA asks for an attribute of the tokenizer at the second round alone."""
    good = json.loads(world.data.read_text())[0]
    longer = {**good, "conversations": [*good["conversations"], *GOOD["conversations"]]}
    longer["conversations"][2] = {"from": "human", "value": "And then?"}
    (tmp_path / "t.json").write_text(json.dumps([good] * 301 + [longer] + [good] * 298))
    with pytest.raises(Ego2ExoError, match="legacy"):
        train(tmp_path / "out", data_path=tmp_path / "t.json")


def lists(world, tmp_path, datasets, flavour):
    """A YAML list with its files, and its check."""
    good = json.loads(world.data.read_text())[0]
    bad = {**good, "video": "gone.mp4"}
    (tmp_path / "a.json").write_text(json.dumps([good, bad, good]))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [bad, good, good]))
    (tmp_path / "l.yaml").write_text(json.dumps({"datasets": datasets}).replace("DIR", str(tmp_path)))
    values = {"data_path": str(tmp_path / "l.yaml"), "video_folder": str(world.videos), "mm_newline_position": "grid"}
    return check_data(Settings(values, frozenset(), {}), Ego2ExoConfig())


def test_lists_of_files_name_the_right_one(world, tmp_path):
    a, b = {"json_path": "DIR/a.json"}, {"json_path": "DIR/b.jsonl"}
    with pytest.raises(Ego2ExoError) as error:
        lists(world, tmp_path, [a, b], None)
    assert (
        "a.json[1]: " in error.value.given and "b.jsonl[0]: " in error.value.given and "of 6 rows" in error.value.given
    )
    kept = [{**a, "sampling_strategy": "first:1"}, {**b, "sampling_strategy": "end:50%"}]
    assert len(lists(world, tmp_path, kept, None)) == 3
    for wrong in ("first:0", "last:3", "first:x"):
        with pytest.raises(Ego2ExoError, match=wrong):
            lists(world, tmp_path, [{**a, "sampling_strategy": wrong}], None)
    for wrong in ("DIR/a.txt", 3):
        with pytest.raises(Ego2ExoError, match=r"l\.yaml"):
            lists(world, tmp_path, [{"json_path": wrong}], None)
    (tmp_path / "c.jsonl").write_text(json.dumps(GOOD) + "\n\n")
    with pytest.raises(Ego2ExoError, match="c.jsonl line 2 is empty"):
        lists(world, tmp_path, [{"json_path": "DIR/c.jsonl"}], None)


# Conversations by their roles, h human and g gpt, and by the words that their order makes.
SHAPES = ["hg", "hghg", "ghg", "hhg", "hgg", "hghh", "gg"]
TEMPLATES = ["v1", "llava_llama_2", "mpt", "plain", "qwen_1_5", "gemma_instruct"]


@pytest.fixture
def preview(world, kinds):
    """(settings, preview) of a template on this host's tokenizer for it."""
    from llava.conversation import conv_templates

    def make(template):
        if template not in conv_templates:
            pytest.skip(f"this llava has no {template}")
        base = world.base("qwen" if template in ("qwen_1_5",) else "llama")
        values = {"model_name_or_path": str(base), "version": template, "model_max_length": 512}
        settings = Settings(values, frozenset(), {})
        made = PreprocessPreview(settings)
        made._copied.legacy = made.tokenizer.legacy = True  # as Llama's tokenizers have it
        return settings, made

    return make


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_order_of_turns_is_what_llava_itself_can_write(template, preview):
    settings, made = preview(template)
    check = RowCheck({"video_folder": None, "image_folder": None}, Ego2ExoConfig(), row_rules(settings))
    for shape in SHAPES:
        spoken = [("human", "What?") if role == "h" else ("gpt", "That.") for role in shape]
        first = shape.find("h")
        if first >= 0:
            spoken[first] = HUMAN
        row = turns(*spoken)
        kinds = {kind for kind, _ in check.faults({**row, "video": __file__})}
        try:
            labels = made.labels(row)
            written = "h" in shape
            if written and shape.endswith("h"):  # what is said of such rows
                assert bool((labels >= 0).any()) == (not check.rules.alternating)
        except Ego2ExoError:
            written = False
        assert ("order of turns" not in kinds) == written, (shape, kinds)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_system_turn_is_the_system_prompt(template, preview):
    """In place of the template's own; a template without one cannot write it."""
    import llava.train.train as host
    from llava import conversation

    settings, made = preview(template)
    check = RowCheck({"video_folder": None, "image_folder": None}, Ego2ExoConfig(), row_rules(settings))
    row = turns(("system", "Answer like a cook."), HUMAN, GPT)
    if template in ("plain", "gemma_instruct"):
        assert check.faults({**row, "video": __file__})[0][0] == "role"
        return
    assert not check.faults({**row, "video": __file__})
    own, plain = host_row(row), turns(HUMAN, GPT)
    before, texts = conversation.default_conversation, []
    conversation.default_conversation = made.conversation
    try:
        for each in (own, plain, own):
            with written_as(each):
                ids = host.preprocess(copy.deepcopy([each["conversations"]]), made.tokenizer, has_image=True)[
                    "input_ids"
                ]
            texts.append(made.tokenizer.decode([i for i in ids[0].tolist() if i >= 0]))
    finally:
        conversation.default_conversation = before
    assert texts[0] == texts[2] and texts[0].count("Answer like a cook.") == 1 and texts[0].count("That.") == 1
    default = made.conversation.system.split("\n")[-1][:30]
    assert default in texts[1] and default not in texts[0] and "cook" not in texts[1]


def test_chat_templates_train_rows_that_others_cannot(check):
    """LLaVA-NeXT writes Qwen's turns one by one, by whatever names the chat template knows."""
    chat = RowRules(roles=("human", "gpt", "user", "assistant", "system"), alternating=False)
    assert check(turns(HUMAN, ("assistant", "!"), ("user", "?"), GPT), turns(HUMAN, ("human", "?"), GPT), rules=chat)
    for row in (turns(("user", "<image>"), GPT), turns(HUMAN, ("User", "?"), GPT)):
        with pytest.raises(Ego2ExoError):
            check(row, rules=chat)
    with pytest.raises(Ego2ExoError, match="after the first turn"):
        check(RIGHT["a later turn"][0], rules=replace(RowRules(), times=True))
    pair = replace(RowRules(), one_answer=True)
    with pytest.raises(Ego2ExoError, match="(?s)2 fault.*one human turn and one gpt turn.*neither video nor image"):
        check(RIGHT["a later turn"][0], RIGHT["text"][0], rules=pair)


def test_lists_of_images_and_folders_of_frames_where_llava_reads_them(check, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    (tmp_path / "shareVideoGPTV").mkdir()
    images = {"image": [str(tmp_path / "a.png"), str(tmp_path / "b.png")],
              "conversations": turns(("human", "<image><image>\n?"), GPT)["conversations"]}  # fmt: skip
    frames, following = {**GOOD, "video": "shareVideoGPTV"}, RowRules(image_lists=True, frame_folder="shareVideoGPTV")
    assert len(check(images, frames, rules=following)) == 2
    with pytest.raises(Ego2ExoError, match="(?s)3 fault.*a list as image.*is a folder"):
        check(images, frames)
