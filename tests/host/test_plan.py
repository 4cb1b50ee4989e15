"""What `plan` tells beforehand is what a training step then takes."""

import json

import pytest
import torch

from llava_ego2exo.config import Ego2ExoConfig
from llava_ego2exo.demo.tiny import tiny_llava, tiny_tower
from llava_ego2exo.planning.live_bytes import LiveBytes
from llava_ego2exo.planning.parts import Run
from llava_ego2exo.planning.shapes import read_shapes
from llava_ego2exo.planning.step import estimate

FRAMES = 6
LANGUAGE = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3, "max_position_embeddings": 4096}


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


def held(model, optimizer):
    """Bytes of weights, of what quantized ones keep beside them, and of the optimizer."""
    tensors = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        nested = getattr(state, "state2", None)
        tensors += [value for part in (state, nested) if part for value in (part.absmax, part.code)]
    tensors += [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.fixture
def measured(train, monkeypatch, tmp_path, sized):
    """Bytes that the second step of a run holds at most, and the length of the language model's input."""

    def run(**flags):
        kind, base = sized
        found = []
        from transformers import Trainer

        original = Trainer.training_step

        def training_step(self, model, inputs, *args):
            if self.state.global_step == 0:
                return original(self, model, inputs, *args)
            from llava_ego2exo.host.answer_pass import llava_model, watched

            before = held(model, self.optimizer)
            with LiveBytes(block=1) as live, watched(llava_model(model)) as seen:
                loss = original(self, model, inputs, *args)
            found.append((before + live.most, seen.labels.shape[1], int(seen.supervised.sum())))
            return loss

        monkeypatch.setattr(Trainer, "training_step", training_step)
        train(
            tmp_path / "s", kind, model_name_or_path=base, frames_upbound=FRAMES, force_sample=True, max_steps=2,
            per_device_train_batch_size=1, gradient_checkpointing=True, model_max_length=4096, lora_dropout=0.05,
            **({"vision_tower": base.parent / "vision_tower"} if flags.keys() >= ALONE.keys() else {}), **flags,
        )  # fmt: skip
        return found[0]

    return run


# What a base's config says is taken over by runs with ego tokens only.
ALONE = {"ego2exo": None, "ego2exo_num_tokens": None, "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2}
CASES = {
    "float32": (16, torch.float32, {}),
    "bf16": (16, torch.bfloat16, {"bf16": True}),
    "4 bits": (4, torch.bfloat16, {"bits": 4, "bf16": True}),
    "layers read again": (16, torch.float32, {"ego2exo_states": "recompute"}),
    "ego tokens alone": (16, torch.float32, {"ego2exo_visual_tokens": False}),
    "LLaVA alone": (16, torch.float32, ALONE),
}


@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_what_a_step_takes(case, measured, sized, flavour):
    bits, dtype, flags = CASES[case]
    peak, length, answer = measured(**flags)
    shapes = shapes_of(sized[1], flavour)
    ego = None
    if flags is not ALONE:
        ego = Ego2ExoConfig(
            num_tokens=4, visual_tokens=flags.get("ego2exo_visual_tokens", True),
            states=flags.get("ego2exo_states", "keep"),
        )  # fmt: skip
    seen = (0 if ego is None else 4) + (shapes.visual_tokens(FRAMES) if ego is None or ego.visual_tokens else 0)
    run = Run(
        frames=FRAMES, bits=bits, rank=16, prompt=length - seen - answer, answer=answer, ego=ego, dtype=dtype,
        on_card=False,
    )  # fmt: skip
    found = estimate(shapes, run, block=1)
    assert found.length == length
    print(case, found, peak, found.peak / peak)
    assert found.peak == pytest.approx(peak, rel=0.1)
