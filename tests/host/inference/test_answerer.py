"""A teacher's batched answers are its own, one by one; each clip goes through the vision tower once."""

import copy

import pytest
import torch

import llava_ego2exo
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.checkpoint.config import read_config
from llava_ego2exo.host.inference.answerer import Answerer, load, load_answerer
from llava_ego2exo.host.inference.settings import InferenceSettings, choose_template, prompt, stop_ids
from llava_ego2exo.host.model.shared_encoding import shared_encoding
from llava_ego2exo.video import read_video

from ..models import branch_of, hooks_of, is_next, model_args, prepare
from .asking import generate

pytestmark = pytest.mark.usefixtures("registered")
KIND, TEMPLATE = ("qwen", "qwen_1_5") if is_next() else ("llama", "v1")
QUESTIONS = [["What moves?", "Where to?", "In which order does it all happen?"], ["What is on the left?"], ["Why?", ""]]
NEW = 9


@pytest.fixture(scope="module")
def models(world):
    """Loaded teachers: plain, with ego tokens, and with ego tokens in place of the visual ones."""
    llava_ego2exo.register()
    made = {}
    for name in ("plain", "ego", "ego alone"):
        made[name] = load(str(world.base(KIND)), torch_dtype="float32")
        model = made[name][1].eval()
        if name != "plain":
            torch.manual_seed(0)
            args = model_args(model.config.mm_vision_tower, ego2exo=True, ego2exo_num_tokens=3)
            model.get_model().initialize_vision_modules(args)
            model.config.ego2exo_visual_tokens = name == "ego"
            with torch.no_grad():
                branch_of(model).reader.tokens.mul_(50.0)
    llava_ego2exo.unregister()
    return made


@pytest.fixture(params=["ego"])
def loaded(request, models):
    """With a tokenizer and a config of its own, as tests change them."""
    tokenizer, model, *rest = models[request.param]
    model.config.__dict__.update(max_position_embeddings=2048, tokenizer_model_max_length=2048)
    return copy.deepcopy(tokenizer), model, *rest


@pytest.fixture
def clips(world, loaded):
    """Three clips of different lengths, preprocessed."""
    videos = zip(sorted(world.videos.glob("*.mp4")), (4, 3, 2), strict=False)
    frames = [read_video(str(path), frames_upbound=count, force_sample=True).frames for path, count in videos]
    return [Answerer(loaded, TEMPLATE).preprocess(one) for one in frames]


@pytest.mark.parametrize("loaded", ["plain", "ego", "ego alone"], indirect=True)
def test_a_batch_answers_as_one_by_one_and_encodes_each_clip_once(loaded, clips):
    """Whatever the side on which the checkpoint pads."""
    model = loaded[1]
    ego = hasattr(model.get_model().mm_projector, "ego_tokens")
    model.config.tokenizer_padding_side = side = "left" if ego else "right"
    wanted = [
        [generate(loaded, clip, question, TEMPLATE, NEW) for question in asked]
        for clip, asked in zip(clips, QUESTIONS, strict=True)
    ]
    assert len({text for row in wanted for text in row}) > 3, "answers that depend on clip and question"
    seen, made, places = [], [], []
    handles = [model.get_vision_tower().vision_tower.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))]
    if ego:
        handles += [branch_of(model).register_forward_hook(lambda _m, args, out: made.append((args[1], out.shape[0])))]
    head = model.get_output_embeddings()
    handles.append(head.register_forward_hook(lambda _m, _a, out: places.append(out.shape[1])))
    answers = Answerer(loaded, TEMPLATE, NEW).answer(clips, QUESTIONS)
    for handle in handles:
        handle.remove()
    assert [[answer.text for answer in row] for row in answers] == wanted
    assert [frames.shape[0] for frames in seen] == [4 + 3 + 2]
    assert places == [1] * NEW, "logits of the last place alone"
    assert made == ([([4, 3, 2], 3)] if ego else [])
    assert model.config.tokenizer_padding_side == side
    assert "forward" not in vars(model.get_vision_tower()) and hooks_of(model) == 0


def test_top_k_are_the_models_own_logits_and_an_answer_ends_with_its_end_token(loaded, clips):
    """By whole forwards over the answer, without a cache."""
    teacher = Answerer(loaded, TEMPLATE, NEW, top_k=5)
    answer = teacher.answer(clips, QUESTIONS)[0][2]
    assert not answer.ended and len(answer.tokens) == NEW
    ids = torch.cat([teacher._ids(QUESTIONS[0][2]), answer.tokens])[None]
    with torch.inference_mode():
        logits = teacher.model(ids, images=[clips[0]], modalities=["video"], use_cache=False).logits[0]
    wanted = logits[-NEW - 1 : -1].topk(5)
    assert torch.equal(answer.ids, wanted.indices.int())
    torch.testing.assert_close(answer.logits.float(), wanted.values, atol=1e-2, rtol=1e-2)
    assert torch.equal(answer.ids[:, 0], answer.tokens.int())
    teacher.stops = [int(answer.tokens[3])]
    kept = answer.tokens.tolist().index(teacher.stops[0]) + 1
    ended = teacher.answer(clips, QUESTIONS)[0][2]
    assert ended.ended and torch.equal(ended.tokens, answer.tokens[:kept]) and torch.equal(ended.ids, answer.ids[:kept])


def test_a_clip_too_long_is_an_error_of_its_own(loaded, clips):
    """LLaVA would cut the query off and answer something else."""
    teacher, model = Answerer(loaded, TEMPLATE, NEW), loaded[1]
    good = teacher.answer(clips, QUESTIONS)
    kinds = {"modalities": ["video"]} if is_next() else {}
    with torch.inference_mode():
        rows = [[teacher._ids(question)[None] for question in asked] for asked in QUESTIONS]
        lengths = [
            max(prepare(model, {"input_ids": ids, "images": [clip], **kinds})[4].shape[1] for ids in own)
            for clip, own in zip(clips, rows, strict=True)
        ]
    longest = max(range(3), key=lengths.__getitem__)
    model.config.max_position_embeddings = lengths[longest] - 1 + NEW
    answers = teacher.answer(clips, QUESTIONS)
    assert isinstance(answers[longest], Ego2ExoError) and str(lengths[longest]) in answers[longest].given
    for number in {0, 1, 2} - {longest}:
        assert [answer.text for answer in answers[number]] == [answer.text for answer in good[number]]
    model.config.max_position_embeddings, model.config.tokenizer_model_max_length = 2048, 3
    assert all(isinstance(row, Ego2ExoError) for row in teacher.answer(clips, QUESTIONS))
    assert model.config.tokenizer_model_max_length == 3


def test_sharing_refuses_other_images(loaded, clips):
    with shared_encoding(loaded[1], [clips[0], clips[0]]), pytest.raises(Ego2ExoError, match="3 pictures"):
        loaded[1].get_vision_tower()(clips[1])


def test_templates(world, kinds, tmp_path, monkeypatch):
    def chosen(path, given=None):
        return choose_template(read_config(str(path)), str(path), given)

    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    base = world.base("llama")
    for path, given, token in ((base, None, "--template"), (base, "qwen_9", "qwen_9"), (tmp_path, "v1", "llama model")):
        with pytest.raises(Ego2ExoError, match=token):
            chosen(path, given)
    assert chosen(base, "v1") == "v1"
    if "qwen" not in kinds:
        return
    assert chosen(world.base("qwen")) == "qwen_1_5"
    with pytest.raises(Ego2ExoError, match="llava_llama_3"):
        chosen(base, "llava_llama_3")
    # It writes with the tokenizer of a hub repository that needs a login.
    from llava.conversation import conv_templates
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    monkeypatch.setattr(conv_templates["llava_llama_3"], "tokenizer", tokenizer)
    assert prompt("What?", "llava_llama_3").endswith("[user]<image>\nWhat?[assistant]")
    assert chosen(base, "llava_llama_3") == "llava_llama_3"


def test_the_templates_separator_ends_an_answer(loaded, monkeypatch):
    tokenizer, model = loaded[:2]
    end, other = ("<|im_end|>", "<|endoftext|>") if is_next() else ("</s>", "<unk>")
    tokenizer.eos_token = other
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    assert set(stop_ids(model, tokenizer, TEMPLATE)) == set(tokenizer.convert_tokens_to_ids([end, other]))


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [4, 16])
def test_on_cuda(bits, world):
    settings = InferenceSettings(TEMPLATE, bits=bits, dtype="bfloat16", max_new_tokens=NEW)
    teacher = load_answerer(str(world.base(KIND)), None, settings, 0, top_k=3)
    clip = teacher.preprocess(read_video(str(next(world.videos.glob("*.mp4"))), frames_upbound=4).frames)
    answer = teacher.answer([clip, clip], [["What?"], ["Where to?", "Who?"]])[1][1]
    assert answer.ids.shape == (len(answer.tokens), 3) and torch.equal(answer.ids[:, 0], answer.tokens.int())
