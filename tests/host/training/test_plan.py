"""What `plan` predicts is what a training step then takes."""

import json
from types import SimpleNamespace

import pytest
import torch

from llava_ego2exo.cli import main
from llava_ego2exo.config import Ego2ExoConfig
from llava_ego2exo.demo.models import tiny_llava, tiny_tower
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.planning.memory import LiveBytes, estimate, held_bytes
from llava_ego2exo.planning.model import RunShape
from llava_ego2exo.planning.prefill import FUSED, prefill
from llava_ego2exo.planning.shapes import read_shapes

from .distillation import distilling_samples, write_json

FRAMES = 4
LANGUAGE = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2, "max_position_embeddings": 1024}


@pytest.fixture(scope="session")
def sized(tmp_path_factory, kinds):
    """A checkpoint whose parts stand in about the proportions of a real one's."""
    root = tmp_path_factory.mktemp("sized")
    tower = tiny_tower(root / "vision_tower", width=96, layers=6, heads=4, size=84)
    return kinds[-1], tiny_llava(root / kinds[-1], kinds[-1], tower=tower, language=LANGUAGE)


def shapes_of(folder, flavour):
    config = json.loads((folder / "config.json").read_text())
    return read_shapes(
        config, json.loads((folder.parent / "vision_tower" / "config.json").read_text()), flavour == "next"
    )


@pytest.fixture
def measured(train, monkeypatch, tmp_path, sized, world):
    """Bytes that the second step of a run holds at most, and the length of the language model's input."""

    def run(**flags):
        kind, base = sized
        found = []
        from transformers import Trainer

        original = Trainer.training_step

        def training_step(self, model, inputs, *args):
            if self.state.global_step == 0:
                return original(self, model, inputs, *args)
            from llava_ego2exo.host.model.answer_tokens import capture_labels, llava_model

            clips = [*inputs["images"], *inputs.get("teacher", {}).get("images", ())]
            before = held_bytes(model, self.optimizer) + sum(clip.nbytes for clip in clips)
            with LiveBytes(block=1) as live, capture_labels(llava_model(model)) as seen:
                loss = original(self, model, inputs, *args)
            found.append((before + live.peak, seen.labels.shape[1], int(seen.supervised.sum())))
            return loss

        monkeypatch.setattr(Trainer, "training_step", training_step)
        if "ego2exo_on_policy" in flags:
            flags["data_path"] = write_json(tmp_path / "pairs.json", distilling_samples(world))
        train(
            tmp_path / "s", kind, model_name_or_path=base, frames_upbound=FRAMES, force_sample=True, max_steps=2,
            per_device_train_batch_size=1, gradient_checkpointing=True, model_max_length=1024, lora_dropout=0.05,
            **({"vision_tower": base.parent / "vision_tower"} if flags.keys() >= ALONE.keys() else {}), **flags,
        )  # fmt: skip
        return found[0]

    return run


# What a base's config says is taken over by runs with ego tokens only.
ALONE = {"ego2exo": None, "ego2exo_num_tokens": None, "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2}
CASES = {
    "bf16, layers read again": (16, torch.bfloat16, {"bf16": True, "ego2exo_states": "recompute"}),
    "the plain block": (16, torch.float32, {"ego2exo_block": "cross_attention"}),
    "4 bits": (4, torch.bfloat16, {"bits": 4, "bf16": True}),
    "LLaVA alone": (16, torch.float32, ALONE),
    "on-policy": (16, torch.float32, {"ego2exo_kd_weight": 1.0, "ego2exo_on_policy": 1.0, "ego2exo_sample_tokens": 64}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_what_a_step_takes(case, measured, sized, flavour):
    bits, dtype, flags = CASES[case]
    peak, length, answer = measured(**flags)
    shapes = shapes_of(sized[1], flavour)
    ego = None
    if flags is not ALONE:
        ego = Ego2ExoConfig.from_object(SimpleNamespace(**{**flags, "ego2exo_num_tokens": 4}))
    seen = (0 if ego is None else 4) + shapes.visual_tokens(FRAMES)
    run = RunShape(
        frames=FRAMES, bits=bits, rank=16, prompt=length - seen - answer, answer=answer, ego=ego, dtype=dtype,
        on_card=False, on_policy="ego2exo_on_policy" in flags,
    )  # fmt: skip
    found = estimate(shapes, run, block=1)
    assert found.length == length
    assert found.peak == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("way", [{"ego2exo_block": "encoder"}, ALONE])
def test_the_counted_prefill_is_what_an_answer_computes(way, train, tmp_path, world, sized, flavour):
    from torch.utils.flop_counter import FlopCounterMode

    from llava_ego2exo.host.inference.answerer import Answerer, load

    (kind, base), folder, ego = sized, tmp_path / "s", None
    if way is not ALONE:
        train(folder, kind, model_name_or_path=base, max_steps=1, model_max_length=1024, **way)
        ego = Ego2ExoConfig(num_tokens=4, block="encoder")
    loaded = load(str(base)) if ego is None else load(str(folder), str(base))
    answerer, question = Answerer(loaded, world.template(kind), 1), "What is held?"
    prompt = len(answerer._ids(question)) - 1  # a video's tokens take the placeholder's place
    found = prefill(shapes_of(base, flavour), RunShape(FRAMES, prompt=prompt, ego=ego, dtype=torch.float32))
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        answerer.answer([torch.rand(FRAMES, 3, 84, 84)], [[question]])
    assert found.total == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert 0 < found.tower < found.total and bool(found.ego) is (ego is not None)


def test_the_command(sized, flavour, capsys, monkeypatch):
    base = str(sized[1])
    assert main(["plan", "--model", base, "--frames-upbound", "1", "2", "--card-gb", "1", "--beside-llava"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("| 4")]
    per_frame = shapes_of(sized[1], flavour).visual_tokens(2) // 2
    assert [row[:3] for row in rows] == [["4", str(n), str(256 + 16 + n * per_frame)] for n in (1, 2)]
    assert all(row[-1] == "yes" for row in rows) and float(rows[0][6]) <= float(rows[1][6])
    assert main(["plan", "--model", base, "--frames-upbound", "2", "--pool", "3x2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["length"] == 256 + 16 + 2 * 6
    asked = ["--frames-upbound", "2", "--block", "encoder", "--first-token", "--beside-llava", "--json"]
    rows = []
    for flags in ([], ["--no-mlp"], ["--no-visual-tokens"]):
        assert main(["plan", "--model", base, *asked, *flags]) == 0
        rows += json.loads(capsys.readouterr().out)["rows"]
    whole, without, alone = (row["prefill"] for row in rows)
    assert alone < rows[0]["llava_prefill"] < without < whole
    assert main(["plan", "--model", base, "--card-gb", "0.001"]) == 1
    assert capsys.readouterr().out.splitlines()[5].endswith("no |")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--states", "offload"], "states offload"),
        (["--card-gb", "-1"], "--card-gb -1"),
        (["--pool", "13x1"], "1x1 to 12x12"),
    ],
)
def test_wrong_input(flags, text, sized, capsys):
    assert main(["plan", "--model", str(sized[1]), *flags]) == 1
    assert text in capsys.readouterr().err


def test_models_without_a_plan(tmp_path):
    for config, text in (
        ({"model_type": "llava_mixtral"}, "llava_mixtral"),
        ({"model_type": "llava_qwen", "mm_vision_tower": "some/tower"}, "some/tower"),
    ):
        with pytest.raises(Ego2ExoError, match=text):
            read_shapes(config, None, True)


def test_tokens_of_a_frame_at_the_published_sizes():
    """LLaVA-OneVision: 27 patches in a row, pooled to 14 (bilinear), and one token at the end of the video."""
    config = {
        "model_type": "llava_qwen", "mm_vision_tower": "google/siglip-so400m-patch14-384", "mm_spatial_pool_stride": 2,
        "mm_spatial_pool_mode": "bilinear", "mm_patch_merge_type": "spatial_unpad", "mm_newline_position": "one_token",
    }  # fmt: skip
    assert read_shapes(config, None, True).visual_tokens(32) == 32 * 196 + 1
    hub = {**config, "model_type": "llava", "architectures": ["LlavaQwenForCausalLM"], "mm_spatial_pool_stride": 4}
    found = read_shapes(hub, None, True)
    assert found.language.model_type == "qwen2"
    assert found.visual_tokens(32) == 32 * 196 + 1  # LLaVA-NeXT pools by 2 whatever the config says
    grid = {
        name: value for name, value in config.items() if name not in ("mm_newline_position", "mm_spatial_pool_mode")
    }
    assert read_shapes(grid, None, True).visual_tokens(32) == 32 * 14 * 15
    average = {**config, "mm_spatial_pool_mode": "average", "mm_newline_position": "frame"}
    assert read_shapes(average, None, True).visual_tokens(8) == 8 * 170
    assert read_shapes(config, None, False).visual_tokens(2) == 2 * 729
    assert read_shapes({**config, "ego2exo_pool": "3x2"}, None, True).visual_tokens(8) == 8 * 6 + 1
