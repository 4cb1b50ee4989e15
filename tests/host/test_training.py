"""The main job on tiny models: train with --ego2exo True, load with LLaVA's loader, ask."""

import pytest
import torch

from llava_ego2exo.demo.ask import ask
from llava_ego2exo.errors import Ego2ExoError
from tests.videos import QUESTION

from .conftest import losses


def load(*args, **kwargs):
    from llava.model.builder import load_pretrained_model

    return load_pretrained_model(*args, **kwargs)


WAYS = {
    "lora": {},
    "lora_bf16": {"bf16": True},
    "qlora4": {"bits": 4, "bf16": True},
    "qlora8": {"bits": 8, "bf16": True},
    "full": {"lora_enable": False, "learning_rate": 2e-3},
    "projector": {"lora_enable": False, "tune_mm_mlp_adapter": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_a_student_trains_loads_and_answers_as_in_memory(kind, way, world, kinds, train, tmp_path):
    if kind not in kinds:
        pytest.skip("llava-torch has no Qwen")
    epochs = 8 if way == "projector" else 60
    trainer = train(tmp_path / "student", kind, num_train_epochs=epochs, **WAYS[way])
    history = losses(trainer)
    assert history[-1] < (0.95 * history[0] if epochs == 8 else 0.2), history
    model = trainer.model.eval()
    model = getattr(getattr(model, "base_model", None), "model", model) if hasattr(model, "peft_config") else model
    base = None if way == "full" else str(world.base(kind))
    dtype = "bfloat16" if "bf16" in WAYS[way] else "float32"
    bits = WAYS[way].get("bits")
    loaded = load(
        str(tmp_path / "student"), base, "x", torch_dtype=dtype, **({f"load_{bits}bit": True} if bits else {})
    )
    loaded[1].get_vision_tower().to(model.get_vision_tower().dtype)
    for video in sorted(world.videos.glob("*.mp4")):
        # A quantized model in training has float32 norms between bf16 layers and runs under the trainer's autocast.
        with torch.autocast("cpu", torch.bfloat16, enabled=bits is not None):
            memory = ask((loaded[0], model, loaded[2], 0), str(video), QUESTION, world.template(kind), frames_upbound=4)
        assert ask(loaded, str(video), QUESTION, world.template(kind), frames_upbound=4) == memory
        if epochs == 60:
            assert memory == "A {} block moves {}.".format(*video.stem.split("_")[1:])


def test_the_tokens_themselves_learn_and_nothing_frozen_moves(world, train, tmp_path):
    trainer = train(tmp_path / "student", num_train_epochs=1, per_device_train_batch_size=2)
    fresh = train(tmp_path / "other", num_train_epochs=1, learning_rate=1e-12, mm_projector_lr=1e-12)
    name = "mm_projector.ego_tokens.reader.tokens"
    trained = {n: p for n, p in trainer.model.named_parameters()}
    start = {n: p for n, p in fresh.model.named_parameters()}
    assert [n for n in trained if n.endswith(name)]
    for key, value in trained.items():
        if "mm_projector" in key:
            assert not torch.equal(value, start[key]), key
        elif "vision_tower" in key or "lora_" not in key:
            assert torch.equal(value, start[key]) and not value.requires_grad, key
    groups = [id(p) for group in trainer.optimizer.param_groups for p in group["params"]]
    wanted = [id(p) for p in trainer.model.parameters() if p.requires_grad]
    assert sorted(groups) == sorted(wanted)


def test_rates(world, train, tmp_path):
    trainer = train(tmp_path / "s", num_train_epochs=1, ego2exo_lr=0.007, mm_projector_lr=0.003, learning_rate=0.001)
    names = {id(p): n for n, p in trainer.model.named_parameters()}
    rates = {names[id(p)]: group["initial_lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, rate in rates.items():
        assert rate == (0.007 if "ego_tokens" in name else 0.003 if "mm_projector" in name else 0.001), name


def test_real_videos(real_videos, world, train, tmp_path):
    from tests.videos import sample, write_samples

    answers = {"flipping_a_pancake.mkv": "A hand flips a pancake.", "xU25MMA2N4aVtYay.mp4": "People stand in a room."}
    data = write_samples(tmp_path / "real.json", [sample(name, answer) for name, answer in answers.items()])
    flags = {"data_path": data, "video_folder": real_videos, "num_train_epochs": 60}
    train(tmp_path / "student", **flags)
    loaded = load(str(tmp_path / "student"), str(world.base()), "x", torch_dtype="float32")
    for name, answer in answers.items():
        assert ask(loaded, str(real_videos / name), QUESTION, "v1", frames_upbound=4) == answer
    bad = write_samples(tmp_path / "bad.json", [sample(name, "?") for name in (*answers, "corrupted.mp4")])
    with pytest.raises(Ego2ExoError, match="corrupted.mp4"):
        train(tmp_path / "other", **{**flags, "data_path": bad})


VARIANTS = {
    "transformer block": {"ego2exo_block": "transformer"},
    "some layers": {"ego2exo_layers": "0,2"},
    "frame keys": {"ego2exo_key_embedding": "frame"},
    "frame and position keys": {"ego2exo_key_embedding": "frame+position"},
    "sdpa": {"ego2exo_attn": "sdpa"},
    "ego tokens alone": {"ego2exo_visual_tokens": False},
    "images too": {"ego2exo_modalities": "video,image"},
    "another projector": {"mm_projector_type": "mlp2x_gelu", "ego2exo_num_tokens": 16},
    "checkpointing, reentrant": {"gradient_checkpointing": True},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_setting_survives_saving(name, world, train, tmp_path):
    trainer = train(tmp_path / "s", **VARIANTS[name])
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


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["lora_bf16", "qlora4"])
def test_on_cuda(way, world, kinds, train, tmp_path):
    """bf16 with sdpa, and --bits 4 through transformers' own quantization, on the first GPU."""
    kind = kinds[-1]
    trainer = train(tmp_path / "s", kind, num_train_epochs=60, use_cpu=None, **WAYS[way])
    assert trainer.model.device.type == "cuda" and losses(trainer)[-1] < 0.3
    bits = {"load_4bit": True} if way == "qlora4" else {}
    loaded = load(str(tmp_path / "s"), str(world.base(kind)), "x", torch_dtype="bfloat16", **bits)
    for video in sorted(world.videos.glob("*.mp4")):
        answer = "A {} block moves {}.".format(*video.stem.split("_")[1:])
        assert ask(loaded, str(video), QUESTION, world.template(kind), frames_upbound=4) == answer
