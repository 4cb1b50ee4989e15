"""The main job on tiny models: train with --ego2exo True, load with LLaVA's loader, ask."""

import pytest
import torch
from safetensors.torch import load_file

from llava_ego2exo import ask
from llava_ego2exo.host.model.answer_tokens import llava_model
from tests.videos import QUESTION

from ..conftest import STUDENTS, losses


def load(*args, **kwargs):
    from llava.model.builder import load_pretrained_model

    return load_pretrained_model(*args, **kwargs)


# The shared student of each way; the last value is what it is loaded with.
WAYS = {
    ("llama", "lora"): {"torch_dtype": "float32"},
    ("qwen", "lora"): {"torch_dtype": "float32"},
    ("llama", "full"): {"torch_dtype": "float32"},
    ("llama", "projector"): {"torch_dtype": "float32"},
    ("llama", "qlora4"): {"torch_dtype": "bfloat16", "load_4bit": True},
}


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_a_student_trains_loads_and_answers_as_in_memory(way, world, kinds, student):
    if way[0] not in kinds:
        pytest.skip("llava-torch has no Qwen")
    trained = student(*way)
    history = losses(trained.trainer)
    assert history[-1] < (0.95 if way[1] == "projector" else 0.3) * history[0], history
    model = llava_model(trained.trainer.model.eval())
    loaded = load(str(trained.folder), trained.base and str(trained.base), "x", **WAYS[way])
    loaded[1].get_vision_tower().to(model.get_vision_tower().dtype)
    videos, asked = sorted(world.videos.glob("*.mp4")), {"template": world.template(way[0]), "frames_upbound": 4}
    for video in videos if way[1] == "lora" else videos[:1]:
        # A quantized model in training has float32 norms between bf16 layers and runs under the trainer's autocast.
        with torch.autocast("cpu", torch.bfloat16, enabled=way[1] == "qlora4"):
            memory = ask((loaded[0], model, loaded[2], 0), str(video), QUESTION, **asked)
        assert ask(loaded, str(video), QUESTION, **asked) == memory
        if way[1] == "lora":
            assert memory == "A {} block moves {}.".format(*video.stem.split("_")[1:])


def test_nothing_frozen_moves_and_each_part_has_its_rate(world, train, tmp_path):
    flags = {"ego2exo_lr": 0.007, "mm_projector_lr": 0.003, "learning_rate": 0.001, "per_device_train_batch_size": 2}
    trainer = train(tmp_path / "student", num_train_epochs=1, ego2exo_preset="paper", **flags)
    assert trainer.model.config.ego2exo_init == "encoder"
    start, compared = load_file(world.base() / "model.safetensors"), set()
    for name, value in trainer.model.get_base_model().named_parameters():
        name = name.replace("base_layer.", "")
        if name in start:
            compared.add(name)
            trained = "mm_projector" in name
            assert value.requires_grad == trained and torch.equal(value, start[name]) != trained, name
    assert compared == start.keys()
    names = {id(p): n for n, p in trainer.model.named_parameters() if p.requires_grad}
    groups = [(names.pop(id(p)), g["initial_lr"]) for g in trainer.optimizer.param_groups for p in g["params"]]
    assert not names  # each is in one group
    for name, rate in groups:
        assert rate == (0.007 if "ego_tokens" in name else 0.003 if "mm_projector" in name else 0.001), name


VARIANTS = {
    "plain block": {"ego2exo_block": "cross_attention", "ego2exo_init": "random", "ego2exo_num_tokens": 8},
    "transformer block, some layers": {"ego2exo_block": "transformer", "ego2exo_layers": "0,2", "ego2exo_pool": "2x1"},
    "ego tokens alone": {
        "ego2exo_visual_tokens": False, "gradient_checkpointing": True, "ego2exo_key_embedding": "frame+position",
        "ego2exo_attn": "sdpa", "ego2exo_states": "recompute",
    },
    "images too, another projector": {
        "ego2exo_modalities": "video,image", "mm_projector_type": "mlp2x_gelu", "ego2exo_num_tokens": 16,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_every_setting_survives_saving(name, world, train, tmp_path):
    trainer = train(tmp_path / "s", num_train_epochs=1, **VARIANTS[name])
    config = trainer.model.config
    for flag, value in VARIANTS[name].items():
        if flag.startswith("ego2exo"):
            assert getattr(config, flag) == value
    loaded = load(str(tmp_path / "s"), str(world.base()), "x", torch_dtype="float32")[1]
    loaded.get_vision_tower().to(trainer.model.get_vision_tower().dtype)
    ids = torch.tensor([[1, 40, -200, 50, 60, 70]])
    call = {"images": [torch.rand(3, 3, 28, 28)], "modalities": ["video"]}
    with torch.no_grad():
        expected = trainer.model.eval()(ids, **call).logits
        torch.testing.assert_close(loaded(ids, **call).logits, expected, atol=1e-4, rtol=1e-4)
    patches = 0 if name == "ego tokens alone" else expected.shape[1] - 5 - config.ego2exo_num_tokens
    assert (
        expected.shape[1] == 5 + config.ego2exo_num_tokens + patches and (patches > 0) == config.ego2exo_visual_tokens
    )


def test_pooling_without_ego_tokens(world, train, tmp_path):
    """In what is saved, loaded and trained further; the ego tokens of a later run get it too."""
    plain = {
        "ego2exo": None, "ego2exo_num_tokens": None, "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
        "vision_tower": world.base().parent / "vision_tower", "max_steps": 1,
    }  # fmt: skip
    call = {"images": [torch.rand(3, 3, 28, 28)], "modalities": ["video"]}
    ids = torch.tensor([[1, 40, -200, 50, 60, 70]])
    trainer = train(tmp_path / "llama_s", lora_enable=False, **plain, ego2exo_pool="2x1")
    further = train(tmp_path / "f", **{**plain, "model_name_or_path": tmp_path / "llama_s"})
    with torch.no_grad():
        for folder, base, trained in (("llama_s", None, trainer), ("f", str(tmp_path / "llama_s"), further)):
            loaded = load(str(tmp_path / folder), base, "llava", torch_dtype="float32")[1]
            loaded.get_vision_tower().to(trained.model.get_vision_tower().dtype)
            expected = trained.model.eval()(ids, **call).logits
            assert loaded.config.ego2exo_pool == "2x1" and expected.shape[1] == 5 + 3 * 2
            torch.testing.assert_close(loaded(ids, **call).logits, expected, atol=1e-4, rtol=1e-4)
    student = train(tmp_path / "e", model_name_or_path=tmp_path / "llama_s", max_steps=1)
    assert student.model(ids, **call).logits.shape[1] == 5 + 3 * 2 + 4


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["lora_bf16", "qlora4"])
def test_on_cuda(way, world, kinds, train, tmp_path):
    """bf16 with sdpa, and --bits 4 through transformers' own quantization, on the first GPU."""
    kind = kinds[-1]
    trainer = train(tmp_path / "s", kind, num_train_epochs=60, use_cpu=None, **STUDENTS[way])
    assert trainer.model.device.type == "cuda" and losses(trainer)[-1] < 0.3
    bits = {"load_4bit": True} if way == "qlora4" else {}
    loaded = load(str(tmp_path / "s"), str(world.base(kind)), "x", torch_dtype="bfloat16", **bits)
    for video in sorted(world.videos.glob("*.mp4")):
        answer = "A {} block moves {}.".format(*video.stem.split("_")[1:])
        assert ask(loaded, str(video), QUESTION, template=world.template(kind), frames_upbound=4) == answer
