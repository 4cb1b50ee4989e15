"""Without --ego2exo a registered plugin changes nothing: each result is compared with that of the unregistered host."""

import dataclasses
import functools
from types import SimpleNamespace

import pytest
import torch

import llava_ego2exo

from ..models import Batch, build, build_plain, is_next, model_args

next_only = pytest.mark.skipif(not is_next(), reason="llava-torch has no such input")


@pytest.fixture(autouse=True)
def unregistered():
    llava_ego2exo.unregister()
    yield
    llava_ego2exo.unregister()


def both(run):
    """`run()` without and with the plugin."""
    first = run()
    llava_ego2exo.register()
    second = run()
    llava_ego2exo.unregister()
    return first, second


def same(first, second, path=""):
    assert type(first) is type(second), path
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            same(first[key], second[key], f"{path}.{key}")
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second), path
    else:
        assert first == second, path


def answer(model, **asked):
    """Greedy tokens. llava-torch's forward dies of the cache_position that transformers >= 4.38 passes: cured by hand,
    on both sides."""
    forward = model.forward

    @functools.wraps(forward)
    def without_position(*args, **kwargs):
        if not is_next():
            kwargs.pop("cache_position", None)
        return forward(*args, **kwargs)

    model.forward = without_position
    try:
        return model.generate(**asked)
    finally:
        del model.forward


def everything(kind, batch, images=None, train=True, sizes=None, **config):
    """Loss, every gradient and greedy tokens of a fresh model."""
    merge = {"mm_patch_merge_type": config.pop("mm_patch_merge_type", "flat")}
    model = build(kind, ego=False, config=config, **merge).train(train)
    given = {"image_sizes": sizes, **({} if images is None else {"images": images})}
    output = model(**batch.call(**given))
    output.loss.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    tokens = answer(model.eval(), **batch.asked(**given))
    return {"loss": output.loss.detach(), "logits": output.logits.detach(), "tokens": tokens, "grads": grads}


CASES = {
    "text": ("....", "......."),
    "mixed": ("..I..", ".....", "..I"),
    "several images": ("..I.I.", ".I.I"),
    "several frames": ("..V..", "...", "I.V."),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_gradients_and_answers(name):
    run = functools.partial(everything, "llama", Batch(*CASES[name], left=name == "mixed"))
    side = "left" if name == "mixed" else "right"
    same(*both(lambda: run(tokenizer_padding_side=side, tokenizer_model_max_length=60)))


def test_other_models_and_forms_of_input():
    if is_next():
        same(*both(lambda: everything("qwen", Batch(*CASES["several frames"]))))
    batch = Batch("..I..", "I....")
    same(*both(lambda: everything("llama", batch, torch.cat(batch.images))))


@next_only
def test_newline_positions():
    batch = Batch("..V..", "..C..")
    config = {"mm_newline_position": "grid", "mm_patch_merge_type": "spatial_unpad"}
    grid = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[56, 56]]}
    same(*both(lambda: everything("llama", batch, sizes=[(60, 40)] * 2, **config, **grid)))


def test_ordinary_projectors():
    def run():
        from llava.model import llava_arch

        found = []
        for projector in ("linear", "mlp2x_gelu", "nonsense"):
            torch.manual_seed(5)
            sizes = SimpleNamespace(mm_projector_type=projector, mm_hidden_size=12, hidden_size=20)
            try:
                made = llava_arch.build_vision_projector(sizes)
            except ValueError as error:
                found.append({"text": str(error)})
            else:
                found.append({"type": str(type(made)), "state": dict(made.state_dict()), "random": torch.rand(3)})
        return dict(enumerate(found))

    same(*both(run))


def test_initialize_vision_modules(tmp_path):
    """Fresh, and with a projector file."""
    donor = build(ego=False)
    weights = {f"model.mm_projector.{k}": v + 1 for k, v in donor.get_model().mm_projector.state_dict().items()}
    torch.save(weights, tmp_path / "mm_projector.bin")

    def run():
        found = {}
        for adapter in (None, str(tmp_path / "mm_projector.bin")):
            model = build_plain()
            torch.manual_seed(7)
            model.get_model().initialize_vision_modules(model_args(ego2exo=False, pretrain_mm_mlp_adapter=adapter))
            config = {key: value for key, value in model.config.to_dict().items()}
            found[str(adapter)] = {"state": dict(model.state_dict()), "config": config, "random": torch.rand(3)}
        return found

    first, second = both(run)
    same(first, second)
    *_, last = second.values()
    assert not any("ego" in key for key in (*last["state"], *last["config"]))
    same({name: last["state"][name] for name in weights}, weights)


@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_the_loader_on_a_full_checkpoint(kind, world, kinds):
    if kind not in kinds:
        pytest.skip("llava-torch has no Qwen")
    batch = Batch("..V..") if is_next() else Batch("..I..")

    def run():
        from llava.model.builder import load_pretrained_model

        way = {"device_map": "auto", "attn_implementation": "sdpa"} if is_next() else {"device": "cpu"}
        tokenizer, model, processor, length = load_pretrained_model(str(world.base(kind)), None, f"llava_{kind}", **way)
        dtype = model.dtype
        model.float().get_vision_tower().float()
        return {
            "class": type(model), "dtype": dtype, "state": dict(model.state_dict()), "length": length,
            "tokens": answer(model, **batch.asked()), "words": tokenizer("A red block.").input_ids,
            "processor": processor.to_dict(), "attention": model.config._attn_implementation,
        }  # fmt: skip

    same(*both(run))


COMMAND = """--model_name_or_path base --version v1 --data_path data.json --image_folder images --vision_tower tower
--mm_projector_type mlp2x_gelu --mm_vision_select_layer -2 --mm_use_im_start_end False --mm_use_im_patch_token False
--image_aspect_ratio pad --group_by_modality_length True --bf16 False --use_cpu True --output_dir out
--num_train_epochs 3 --per_device_train_batch_size 2 --learning_rate 2e-5 --weight_decay 0. --warmup_ratio 0.03
--lr_scheduler_type cosine --logging_steps 1 --model_max_length 2048 --gradient_checkpointing True
--lora_enable True --lora_r 64 --lora_alpha 16 --mm_projector_lr 2e-6 --bits 16 --report_to none"""


def test_a_plain_command_line_means_the_same():
    def run():
        from llava.train import train
        from transformers import HfArgumentParser

        classes = (train.ModelArguments, train.DataArguments, train.TrainingArguments)
        parsed = HfArgumentParser(classes).parse_args_into_dataclasses(COMMAND.split())
        return {type(one).__name__: {f.name: getattr(one, f.name) for f in dataclasses.fields(one)} for one in parsed}

    first, second = both(run)
    own = {"trainer_type": None, "vision_tower_dtype": None, "ego2exo": False, "video_folder": None, "video_fps": 1,
           "frames_upbound": 0, "add_time_instruction": False, "force_sample": False}  # fmt: skip
    for name, values in first.items():
        added = {key: second[name].pop(key) for key in set(second[name]) - set(values)}
        assert all(key.startswith("ego2exo_") or own[key] == value for key, value in added.items()), added
    unequal = {"logging_dir", "deepspeed_plugin", "accelerator_config"}  # a time stamp; objects made anew
    for name, values in first.items():
        for key in values:
            assert key in unequal or values[key] == second[name][key], key
