"""Options scored by their letters: equal to scoring each option apart, and to what the model would generate."""

import pytest
import torch

import llava_ego2exo
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.inference import settings
from llava_ego2exo.host.inference.answerer import Answerer, load
from llava_ego2exo.host.inference.option_scoring import MultipleChoiceQuestion, letter_scores, option_scores

pytestmark = pytest.mark.usefixtures("registered")
TEXTS = ("Which hand holds the cup?", "What is on the table, and who put it there before?")


@pytest.fixture(scope="module")
def teachers(world, kinds):
    llava_ego2exo.register()
    made = {}
    for kind in kinds:
        loaded = load(str(world.base(kind)), torch_dtype="float32")
        made[kind] = Answerer(loaded, world.template(kind), max_new_tokens=4)
    yield made
    llava_ego2exo.unregister()


@pytest.fixture
def clips():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(frames, 3, 28, 28, generator=generator) for frames in (2, 3)]


@pytest.mark.parametrize("keys", [tuple("ABCD"), ("9", "10", "11")])
def test_equal_to_each_option_scored_apart(teachers, clips, keys):
    for teacher in teachers.values():
        asked = [[MultipleChoiceQuestion(text, keys) for text in TEXTS], [MultipleChoiceQuestion(TEXTS[1], keys[:2])]]
        tower, seen = teacher.model.get_vision_tower().vision_tower, []
        handle = tower.register_forward_pre_hook(lambda _module, args, seen=seen: seen.append(len(args[0])))
        found = letter_scores(teacher, clips, asked)
        handle.remove()
        assert sum(seen) == sum(map(len, clips)), "each clip is encoded once"
        flat = [(clip, question) for clip, own in zip(clips, asked, strict=True) for question in own]
        wanted = [[_plain(teacher, clip, question.text, key) for key in question.keys] for clip, question in flat]
        for (_, question), mine, theirs in zip(flat, sum(found, []), wanted, strict=True):
            assert mine == pytest.approx(dict(zip(question.keys, theirs, strict=True)), abs=1e-4)
            assert tuple(mine) == question.keys


def test_options_of_several_tokens(teachers, clips):
    options = [("a red cup", "it is the green plate on the left", "no"), ("a red cup", "no")]
    for teacher in teachers.values():
        found = option_scores(teacher.model, teacher.tokenizer, clips, TEXTS, options, teacher.template)
        for clip, text, own, scores in zip(clips, TEXTS, options, found, strict=True):
            assert scores == pytest.approx([_plain(teacher, clip, text, option) for option in own], abs=1e-3)


def _plain(teacher, clip, text, answer):
    """LLaVA's own loss on one row alone, times its answer tokens: nothing shared, batched or left out."""
    from llava.mm_utils import tokenizer_image_token

    head = settings.prompt(text, teacher.template)
    joint = "" if head.endswith("\n") else " "
    ids = tokenizer_image_token(f"{head}{joint}{answer}", teacher.tokenizer, return_tensors="pt")[None]
    labels = ids.clone()
    labels[:, : len(tokenizer_image_token(head, teacher.tokenizer))] = -100
    with torch.inference_mode():
        loss = teacher.model(input_ids=ids, labels=labels, images=[clip], modalities=["video"]).loss
    return -float(loss) * int((labels != -100).sum())


def test_a_clip_that_is_too_long_is_named_and_the_others_are_scored(teachers, clips, monkeypatch):
    teacher, asked = next(iter(teachers.values())), [[MultipleChoiceQuestion(TEXTS[0], ("A", "B"))]]
    monkeypatch.setattr(teacher, "room", lambda: 200)
    found = letter_scores(teacher, [clips[0].repeat(200, 1, 1, 1), clips[1]], asked * 2)
    assert isinstance(found[0], Ego2ExoError) and found[1] == letter_scores(teacher, [clips[1]], asked)[0]
