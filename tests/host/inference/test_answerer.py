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

from ..models import Batch, branch_of, build, check_rows, hooks_of, is_next, model_args, prepare
from .asking import generate

pytestmark = pytest.mark.usefixtures("registered")
QUESTIONS = [["What moves?", "Where to?", "In which order does it all happen?"], ["What is on the left?"], ["Why?", ""]]
NEW = 9


def is_ego(loaded):
    return hasattr(loaded[1].get_model().mm_projector, "ego_tokens")


@pytest.fixture(scope="module")
def models(world):
    """Loaded teachers: plain, with ego tokens, and with ego tokens in place of the visual ones."""
    llava_ego2exo.register()
    kind, made = "qwen" if is_next() else "llama", {}
    for name in ("plain", "ego", "ego alone"):
        made[name] = load(str(world.base(kind)), torch_dtype="float32")
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


@pytest.fixture(params=["plain", "ego", "ego alone"])
def any_model(request, models):
    return unchanged(models[request.param])


@pytest.fixture
def loaded(models):
    return unchanged(models["ego"])


def unchanged(loaded):
    """A tokenizer and a config of its own, as tests change them."""
    model = loaded[1]
    model.config.__dict__.update(max_position_embeddings=2048, tokenizer_model_max_length=2048)
    return copy.deepcopy(loaded[0]), *loaded[1:]


@pytest.fixture
def clips(world, loaded):
    """Three clips of different lengths, preprocessed."""
    paths = sorted(world.videos.glob("*.mp4"))[:3]
    frames = [
        read_video(str(p), frames_upbound=n, force_sample=True).frames for p, n in zip(paths, (4, 3, 2), strict=True)
    ]
    return [Answerer(loaded, template(loaded)).preprocess(f) for f in frames]


def template(loaded):
    return "qwen_1_5" if type(loaded[1]).__name__ == "LlavaQwenForCausalLM" else "v1"


def template_of(path, given):
    return choose_template(read_config(str(path)), str(path), given)


def one_by_one(loaded, clips):
    return [
        [generate(loaded, clip, question, template(loaded), NEW) for question in asked]
        for clip, asked in zip(clips, QUESTIONS, strict=True)
    ]


def test_a_batch_answers_as_one_by_one_and_encodes_each_clip_once(any_model, clips):
    """Whatever the side on which the checkpoint pads."""
    loaded = any_model
    model, side = loaded[1], "left" if is_ego(loaded) else "right"
    model.config.tokenizer_padding_side = side
    wanted = one_by_one(loaded, clips)
    assert len({text for row in wanted for text in row}) > 3, "answers that depend on clip and question"
    seen, made, places = [], [], []
    handles = [model.get_vision_tower().vision_tower.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))]
    if is_ego(loaded):
        handles += [branch_of(model).register_forward_hook(lambda _m, args, out: made.append((args[1], out.shape[0])))]
    head = model.get_output_embeddings()
    handles.append(head.register_forward_hook(lambda _m, _a, out: places.append(out.shape[1])))
    answers = Answerer(loaded, template(loaded), NEW).answer(clips, QUESTIONS)
    for handle in handles:
        handle.remove()
    assert [[answer.text for answer in row] for row in answers] == wanted
    assert [frames.shape[0] for frames in seen] == [4 + 3 + 2]
    assert places == [1] * NEW, "logits of the last place alone"
    assert made == ([([4, 3, 2], 3)] if is_ego(loaded) else [])
    assert model.config.tokenizer_padding_side == side
    assert "forward" not in vars(model.get_vision_tower()) and hooks_of(model) == 0


def test_top_k_are_the_models_own_logits(any_model, clips):
    """By whole forwards over the answer, without a cache."""
    teacher = Answerer(any_model, template(any_model), NEW, top_k=5)
    answer = teacher.answer(clips, QUESTIONS)[0][2]
    ids = torch.cat([teacher._ids(QUESTIONS[0][2]), answer.tokens])[None]
    with torch.inference_mode():
        logits = teacher.model(ids, images=[clips[0]], modalities=["video"], use_cache=False).logits[0]
    wanted = logits[-len(answer.tokens) - 1 : -1].topk(5)
    assert torch.equal(answer.ids, wanted.indices.int())
    torch.testing.assert_close(answer.logits.float(), wanted.values, atol=1e-2, rtol=1e-2)
    assert torch.equal(answer.ids[:, 0], answer.tokens.int())
    assert answer.ids.shape == (len(answer.tokens), 5)
    with pytest.raises(Ego2ExoError, match="--top-k 99999"):
        Answerer(any_model, template(any_model), NEW, top_k=99999)


def test_an_answer_ends_with_its_end_token_or_is_cut(loaded, clips):
    teacher = Answerer(loaded, template(loaded), NEW)
    whole = teacher.answer(clips[:1], [QUESTIONS[0]])[0][0]
    assert not whole.ended and len(whole.tokens) == NEW
    teacher.stops = [int(whole.tokens[3])]
    first = whole.tokens.tolist().index(teacher.stops[0])
    ended = teacher.answer(clips[:1], [QUESTIONS[0]])[0][0]
    assert ended.ended and torch.equal(ended.tokens, whole.tokens[: first + 1])


def test_a_clip_too_long_is_an_error_of_its_own(loaded, clips):
    """LLaVA would cut the query off and answer something else."""
    teacher, model = Answerer(loaded, template(loaded), NEW), loaded[1]
    good = teacher.answer(clips, QUESTIONS)
    lengths = []
    with torch.inference_mode():
        for clip, asked in zip(clips, QUESTIONS, strict=True):
            for question in asked:
                ids = teacher._ids(question)[None]
                call = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "images": [clip]}
                told = {"modalities": ["video"]} if is_next() else {}
                lengths.append((prepare(model, {**call, **told})[4].shape[1], clip))
    longest = max(lengths, key=lambda pair: pair[0])
    model.config.max_position_embeddings = longest[0] - 1 + NEW
    answers = teacher.answer(clips, QUESTIONS)
    lost = [isinstance(row, Ego2ExoError) for row in answers]
    assert lost == [clip is longest[1] for clip in clips]
    assert f"takes {longest[0]} positions" in str(answers[lost.index(True)])
    for row, whole, gone in zip(answers, good, lost, strict=True):
        assert gone or [answer.text for answer in row] == [answer.text for answer in whole]
    model.config.max_position_embeddings, model.config.tokenizer_model_max_length = 2048, 3
    assert all(isinstance(row, Ego2ExoError) for row in teacher.answer(clips, QUESTIONS))
    assert model.config.tokenizer_model_max_length == 3


def test_sharing_without_repeats_changes_nothing():
    model, batch = build(), Batch(".V.V.", "..V", ".I.")
    with shared_encoding(model, batch.images):
        check_rows(model, batch)


def test_sharing_refuses_other_images(loaded, clips):
    model = loaded[1]
    with (
        shared_encoding(model, [clips[0], clips[0]]),
        pytest.raises(Ego2ExoError, match="3 pictures"),
    ):
        model.get_vision_tower()(clips[1])


def test_templates(world, kinds, tmp_path):
    with pytest.raises(Ego2ExoError, match="--template"):
        template_of(world.base("llama"), None)
    assert template_of(world.base("llama"), "v1") == "v1"
    if "qwen" in kinds:
        assert template_of(world.base("qwen"), None) == "qwen_1_5"
        with pytest.raises(Ego2ExoError, match="llava_llama_3"):
            template_of(world.base("qwen"), "llava_llama_3")
    with pytest.raises(Ego2ExoError, match="qwen_9"):
        template_of(world.base("llama"), "qwen_9")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(Ego2ExoError, match="a llama model"):
        template_of(tmp_path, "v1")


def test_the_templates_separator_ends_an_answer(loaded, monkeypatch):
    tokenizer, model = loaded[:2]
    name = template(loaded)
    assert tokenizer.eos_token_id in stop_ids(model, tokenizer, name)
    tokenizer.eos_token = "<unk>" if name == "v1" else "<|endoftext|>"
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    end = tokenizer.convert_tokens_to_ids("</s>" if name == "v1" else "<|im_end|>")
    assert set(stop_ids(model, tokenizer, name)) == {tokenizer.eos_token_id, end}


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [4, 16])
def test_on_cuda(bits, world, kinds):
    kind = kinds[-1]
    name = {"llama": "v1", "qwen": "qwen_1_5"}[kind]
    settings = InferenceSettings(name, bits=bits, dtype="bfloat16", max_new_tokens=NEW)
    teacher = load_answerer(str(world.base(kind)), None, settings, 0, top_k=3)
    clip = teacher.preprocess(read_video(str(next(world.videos.glob("*.mp4"))), frames_upbound=4).frames)
    answer = teacher.answer([clip, clip], [["What?"], ["Where to?", "Who?"]])[1][1]
    assert answer.ids.shape == (len(answer.tokens), 3) and torch.equal(answer.ids[:, 0], answer.tokens.int())


def test_the_llama_3_template_writes_with_its_tokenizer(world, monkeypatch):
    if not is_next():
        pytest.skip("llava-torch has no such template")
    from llava.conversation import conv_templates
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(world.base("llama"))
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    monkeypatch.setattr(conv_templates["llava_llama_3"], "tokenizer", tokenizer)
    assert prompt("What?", "llava_llama_3").endswith("[user]<image>\nWhat?[assistant]")
    assert template_of(world.base("llama"), "llava_llama_3") == "llava_llama_3"
