"""Ego tokens inside the language model's input, against upstream's own preparation with the rows put in by hand."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch

import llava_ego2exo
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.items import Item, list_items

from .models import (
    Batch,
    P,
    branch_of,
    build,
    check_rows,
    ego_grads,
    ego_rows,
    expected,
    greedy,
    hooks_of,
    is_next,
    prepare,
)

pytestmark = pytest.mark.usefixtures("registered")
next_only = pytest.mark.skipif(not is_next(), reason="llava-torch has neither `modalities` nor newline positions")

CASES = {
    "ragged": ("..V..", "..V.", "V....."),
    "text and image rows": (".....", "..V.", "..I.", "...V"),
    "image and video in one row": ("..I.V..", ".V.I."),
    "two videos in one row": ("..V.V..", "V."),
    "side by side": ("..VV.", "IV..", "VI"),
    "several images": ("..I.I.", "..", ".I.V.I."),
    "no video": ("..", "..I.", ".I.I"),
    "videos alone": ("VV",),
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", CASES)
def test_rows_stand_behind_their_video(name, side):
    check_rows(build(), Batch(*CASES[name], left=side == "left"), side=side)


BRANCHES = (
    {"ego2exo_block": "transformer"},
    {"ego2exo_layers": "1,3"},
    {"ego2exo_attn": "sdpa"},
    {"mm_projector_type": "linear"},
    {"ego2exo_key_embedding": "frame+position"},
)


@pytest.mark.parametrize("flags", BRANCHES, ids=str)
def test_whatever_the_branch_is(flags):
    check_rows(build(**flags), Batch("..V.", "..", "V.V."))


def test_each_video_gets_its_own_tokens():
    """Read alone, a video's tokens are the same as read among others."""
    model, batch = build(), Batch("..V.V..", "...", "V.")
    together = ego_rows(model, batch, [0, 1, 3])
    alone = torch.cat([ego_rows(model, batch, [item]) for item in (0, 1, 3)])
    torch.testing.assert_close(together, alone)
    assert (together[0] - together[1]).abs().max() > 1e-3
    assert (together[:, 0] - together[:, 1]).abs().max() > 1e-4


@pytest.mark.parametrize("side", ["right", "left"])
def test_truncation_at_every_length(side):
    model, batch = build(), Batch("..V..", "...", ".V.I.V")
    longest = expected(model, batch)[0].shape[1]
    for limit in range(1, longest + 2):
        check_rows(model, batch, limit=limit, side=side)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("labels", [True, False])
def test_mask_and_labels_may_be_none(mask, labels):
    model, batch = build(), Batch("..V..", "..I..", ".....")
    wanted = expected(model, batch)
    changes = {**({} if mask else {"attention_mask": None}), **({} if labels else {"labels": None})}
    result = prepare(model, batch.call(**changes))
    assert torch.equal(result[4], wanted[0])
    assert torch.equal(result[5], wanted[1]) if labels else result[5] is None
    assert torch.equal(result[2], wanted[2]) if mask else result[2] is None


def test_given_positions_are_rebuilt():
    model, batch = build(), Batch("..V..", "..")
    positions = torch.arange(5).expand(2, 5)
    result = prepare(model, batch.call(position_ids=positions))
    lengths = result[2].sum(1)
    for row, length in zip(result[1], lengths, strict=True):
        assert torch.equal(row[:length], torch.arange(length))


def test_bool_mask_stays_bool():
    batch = Batch("..V..", "..")
    result = prepare(build(), batch.call(attention_mask=batch.mask.bool()))
    assert result[2].dtype == torch.bool


def test_five_dimensional_images():
    model, batch = build(), Batch("..V..", "V...")
    batch.images = [torch.randn(4, 3, 28, 28) for _ in batch.images]
    wanted = expected(model, batch)
    result = prepare(model, batch.call(images=torch.stack(batch.images)))
    assert torch.equal(result[4], wanted[0])


def test_single_pictures_without_a_frame_axis():
    model, batch = build(ego2exo_modalities="video,image"), Batch("..V..", "I...", "..")
    wanted = expected(model, batch, "video,image")
    images = [x[0] if len(x) == 1 else x for x in batch.images]
    assert torch.equal(prepare(model, batch.call(images=images))[4], wanted[0])


@pytest.mark.parametrize("ego", ["video", "image", "video,image"])
def test_a_tensor_of_pictures(ego):
    """(B, 3, H, W): LLaVA takes each for an image, whatever `modalities` says."""
    model, batch = build(ego2exo_modalities=ego), Batch("..I..", "I...")
    wanted = expected(model, batch, ego)
    result = prepare(model, batch.call(images=torch.cat(batch.images)))
    assert torch.equal(result[4], wanted[0])
    assert result[4].shape[1] == 4 + 16 + P * ("image" in ego)
    if is_next():
        told = prepare(model, batch.call(images=torch.cat(batch.images), modalities=["video", "video"]))
        assert torch.equal(told[4], wanted[0])


@pytest.mark.parametrize("merge, ratio, kind", [
    ("flat", "pad", "video"), ("spatial", "pad", "image"), ("flat", "anyres", "image"), ("spatial", "anyres", "image"),
])  # fmt: skip
def test_several_pictures_where_nothing_is_said(merge, ratio, kind):
    config = SimpleNamespace(mm_patch_merge_type=merge, image_aspect_ratio=ratio)
    images = [torch.zeros(4, 3, 2, 2), torch.zeros(1, 3, 2, 2), torch.zeros(3, 2, 2)]
    items = list_items(images, None, config)
    assert items == [Item(kind, 0, 4), Item("image", 4, 5), Item("image", 5, 6)]
    assert list_items(torch.zeros(2, 4, 3, 2, 2), None, config) == [Item(kind, 0, 4), Item(kind, 4, 8)]


@pytest.mark.parametrize("ego", ["image", "video,image"])
@pytest.mark.parametrize("name", CASES)
def test_images_get_tokens_when_asked(name, ego):
    check_rows(build(ego2exo_modalities=ego), Batch(*CASES[name]), ego)


@next_only
@pytest.mark.parametrize("merge", ["spatial", "spatial_unpad"])
@pytest.mark.parametrize("newline", ["grid", "frame", "one_token", "no_token"])
def test_newline_tokens(newline, merge):
    model = build(mm_patch_merge_type="spatial_unpad", config={"mm_newline_position": newline})
    model.config.mm_patch_merge_type = merge
    check_rows(model, Batch("..V..", "..I.V.", "..."))


@next_only
@pytest.mark.parametrize("ratio", ["anyres", "anyres_max_4", "pad"])
def test_a_picture_in_crops_beside_a_video(ratio):
    config = {"image_aspect_ratio": ratio, "image_grid_pinpoints": [[56, 56]]}
    model = build(mm_patch_merge_type="spatial_unpad", config=config)
    batch = Batch("..C.V..", "..V", "C...")
    check_rows(model, batch, sizes=[(60, 40)] * len(batch.images))
    model.config.ego2exo_modalities = "video,image"
    check_rows(model, batch, "video,image", sizes=[(60, 40)] * len(batch.images))


@next_only
def test_a_placeholder_too_many_takes_the_item_before_it():
    batch = Batch("..V..", ".V.V.")
    batch.images, batch.kinds = batch.images[:2], batch.kinds[:2]
    check_rows(build(), batch)


def test_too_many_images_are_left_over():
    batch = Batch("..V..", "..V")
    batch.images.append(torch.randn(3, 3, 28, 28))
    batch.kinds.append("video")
    check_rows(build(), batch)


@next_only
def test_modalities_shorter_than_the_batch_lose_no_row():
    """Upstream cuts the batch to as many rows as `modalities` has entries."""
    model, batch = build(), Batch("..V..", "...", "..I.")
    wanted = expected(model, batch)
    for told in (["video"], "video"):
        result = prepare(model, batch.call(modalities=told))
        assert torch.equal(result[4], wanted[0]) and torch.equal(result[5], wanted[1])


@pytest.mark.parametrize("config", [{"mm_patch_merge_type": "spatial"}, {"image_aspect_ratio": "anyres"}])
def test_crops_are_no_video_where_nothing_is_said(config):
    if is_next():
        pytest.skip("LLaVA-NeXT says in `modalities` what is a video")
    model, batch = build(), Batch("..C..")
    with_tokens = prepare(model, batch.call())[4].shape[1]
    for key, value in {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[56, 56]], **config}.items():
        setattr(model.config, key, value)
    assert prepare(model, batch.call(image_sizes=[(60, 60)]))[4].shape[1] == with_tokens - P


def test_a_tower_that_sees_every_frame_twice_is_refused():
    model = build()
    tower = model.get_vision_tower()
    forward = tower.forward
    tower.forward = lambda images: (forward(images), forward(images))[0]
    with pytest.raises(Ego2ExoError, match="CLIPVisionTower encoded .* pictures where the batch has"):
        prepare(model, Batch("..V.").call())
    assert hooks_of(model) == 0


class TestWithoutVisualTokens:
    @pytest.mark.parametrize("side", ["right", "left"])
    def test_ego_rows_alone(self, side):
        model = build(ego2exo_visual_tokens=False)
        batch = Batch("..V..", "....", "V.V")
        embeds, *_ = check_rows(model, batch, visual=False, side=side)
        assert embeds.shape[1] == max(4 + P, 4, 1 + 2 * P)

    def test_images_too(self):
        model = build(ego2exo_visual_tokens=False, ego2exo_modalities="video,image")
        check_rows(model, Batch("..V..", "..", ".I.", "I.V"), "video,image", visual=False)

    @pytest.mark.parametrize("rows", [("..I.",), ("..V.", ".I."), ("..I.V",)])
    def test_an_image_would_vanish(self, rows):
        model = build(ego2exo_visual_tokens=False)
        with pytest.raises(Ego2ExoError, match="image input that gets no ego tokens.*--ego2exo_modalities"):
            prepare(model, Batch(*rows).call())
        assert hooks_of(model) == 0

    def test_a_tensor_of_pictures_would_vanish(self):
        model = build(ego2exo_visual_tokens=False)
        with pytest.raises(Ego2ExoError, match="image input"):
            prepare(model, Batch("..I.").call(images=torch.randn(1, 3, 28, 28)))

    def test_text_alone(self):
        model = build(ego2exo_visual_tokens=False)
        check_rows(model, Batch("....", ".."), visual=False)

    def test_every_projector_parameter_has_a_gradient(self):
        """Distributed training waits for each; the ordinary projector's are zero."""
        model = build(ego2exo_visual_tokens=False)
        model(**Batch("..V..", "..").call()).loss.backward()
        for name, parameter in model.get_model().mm_projector.named_parameters():
            assert parameter.grad is not None, name
            assert bool(parameter.grad.any()) == name.startswith("ego_tokens"), name

    def test_the_projector_sees_one_patch(self):
        model = build(ego2exo_visual_tokens=False)
        seen = []
        model.get_model().mm_projector.register_forward_hook(lambda m, a, o: seen.append(tuple(a[0].shape)))
        prepare(model, Batch("..V..", "V.V").call())
        assert seen == [(1, 1, 32)]
        assert "encode_images" not in vars(model)


@pytest.mark.parametrize("kind", ["llama", "qwen"])
@pytest.mark.parametrize("visual", [True, False])
@torch.no_grad()
def test_generate_equals_an_uncached_loop(kind, visual, kinds):
    if kind not in kinds:
        pytest.skip("llava-torch has no Qwen")
    model, batch = build(kind, ego2exo_visual_tokens=visual), Batch("..V..V.")
    calls = []
    branch_of(model).register_forward_hook(lambda *_: calls.append(1))
    settings = {"output_logits": True, "return_dict_in_generate": True}
    made = model.generate(**batch.asked(**settings))
    assert len(calls) == 1
    wanted, scores = greedy(model, batch, 6)
    torch.testing.assert_close(torch.stack(made.logits, 1), scores, atol=1e-4, rtol=1e-4)
    assert torch.equal(made.sequences[:, -6:], wanted)


def test_a_left_padded_batch_equals_singles():
    rows = ("..V..", "........", "..I.V.", "V.")
    model = build(config={"tokenizer_padding_side": "left"})
    batch = Batch(*rows, left=True)
    together = model.generate(**batch.asked())
    for index, row in enumerate(rows):
        single = copy.copy(batch)
        single.rows, items = [batch.rows[index]], batch.slots[index] or [sum(len(s) or 1 for s in batch.slots[:index])]
        single.images, single.kinds = [batch.images[i] for i in items], [batch.kinds[i] for i in items]
        assert torch.equal(model.generate(**single.asked())[0], together[index]), row


def test_beams():
    model, batch = build(), Batch("..V..")
    calls = []
    branch_of(model).register_forward_hook(lambda *_: calls.append(1))
    made = model.generate(**batch.asked(num_beams=2, num_return_sequences=2))
    assert made.shape[0] == 2 and len(calls) == 1
    zero = copy.deepcopy(model)
    torch.nn.init.zeros_(branch_of(zero).projector[2].weight)
    first = model.generate(**batch.asked(num_beams=2, output_scores=True, return_dict_in_generate=True))
    second = zero.generate(**batch.asked(num_beams=2, output_scores=True, return_dict_in_generate=True))
    assert not torch.equal(first.sequences_scores, second.sequences_scores)


def input_needs_grad(_module, _args, output):
    """What LLaVA's train script hangs on the embedding under gradient checkpointing."""
    output.requires_grad_(True)


class TestTraining:
    def test_loss_is_upstreams_on_the_expected_rows(self):
        model, batch = build(), Batch("....V..", "......", "..I..V.")
        embeds, labels, mask = expected(model, batch)
        with torch.no_grad():
            loss = model(**batch.call()).loss
            wanted = model(inputs_embeds=embeds, attention_mask=mask, labels=labels).loss
        assert torch.equal(loss, wanted) and loss > 0

    @pytest.mark.parametrize("lora", [False, True])
    def test_checkpointing_changes_no_gradient(self, lora):
        results = []
        for mode in (None, {"use_reentrant": True}, {"use_reentrant": False}):
            model = build().train()
            inner = model
            model.requires_grad_(not lora)
            model.get_vision_tower().requires_grad_(False)
            model.get_model().mm_projector.requires_grad_(True)
            if lora:
                peft = pytest.importorskip("peft")
                torch.manual_seed(3)
                config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
                model.get_vision_tower().vision_tower.requires_grad_(False)
                names = [n for n, _ in model.named_modules() if n.endswith(("q_proj", "v_proj")) and ".layers." in n]
                config.target_modules = {n for n in names if "vision_tower" not in n}
                model = peft.get_peft_model(model, config)
                for name, parameter in model.named_parameters():
                    parameter.requires_grad_("lora_" in name or "mm_projector" in name)
            if mode:
                inner.gradient_checkpointing_enable(mode)
                inner.get_input_embeddings().register_forward_hook(input_needs_grad)
            loss = model(**Batch("....V..", "......", "..I..V.").call()).loss
            loss.backward()
            grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
            results.append((loss.detach(), grads))
            for name, grad in ego_grads(inner).items():
                assert grad is not None and grad.abs().max() > 0, name
        for loss, grads in results[1:]:
            assert torch.equal(loss, results[0][0])
            assert grads.keys() == results[0][1].keys()
            for name, grad in grads.items():
                torch.testing.assert_close(grad, results[0][1][name], msg=name)

    def test_a_tuned_tower_gets_gradients_through_the_ego_tokens(self):
        if not is_next():
            pytest.skip("llava-torch runs its tower under no_grad")
        model, seen = build(ego2exo_visual_tokens=False), []
        for mode in (None, {"use_reentrant": True}, {"use_reentrant": False}):
            copied = copy.deepcopy(model).train()
            tower = copied.get_vision_tower().vision_tower.requires_grad_(True)
            if mode:
                copied.gradient_checkpointing_enable(mode)
                copied.get_input_embeddings().register_forward_hook(input_needs_grad)
                tower.vision_model.embeddings.register_forward_hook(input_needs_grad)
            copied(**Batch("....V..", "......").call()).loss.backward()
            seen.append([p.grad for n, p in tower.named_parameters() if ".layers." in n])
            assert all(grad is not None and grad.abs().max() > 0 for grad in seen[-1][:-2])
        for other in seen[1:]:
            for a, b in zip(seen[0], other, strict=True):
                torch.testing.assert_close(a, b)

    @pytest.mark.parametrize("rows", [("......", "....."), ("...I..", "....")])
    def test_no_video(self, rows):
        """Loss as without the plugin; ego gradients zero, not None, and an inf in the branch stays in there."""
        model, batch = build(), Batch(*rows)
        plain = build(ego=False)
        plain.load_state_dict({k: v for k, v in model.state_dict().items() if "ego_tokens" not in k})
        wanted = plain(**batch.call()).loss
        wanted.backward()
        loss = model(**batch.call()).loss
        loss.backward()
        assert torch.equal(loss, wanted)
        for name, parameter in plain.named_parameters():
            other = model.get_parameter(name).grad
            assert (other is None and parameter.grad is None) or torch.equal(other, parameter.grad), name
        for name, grad in ego_grads(model).items():
            assert grad is not None and not grad.any(), name
        with torch.no_grad():
            for parameter in branch_of(model).parameters():
                parameter.fill_(float("inf"))
        assert torch.equal(model(**batch.call()).loss, wanted)

    def test_frozen_branch_without_video_is_not_run(self):
        model, calls = build(), []
        branch_of(model).requires_grad_(False).register_forward_pre_hook(lambda *_: calls.append(1))
        branch_of(model).reader.register_forward_pre_hook(lambda *_: calls.append(1))
        model(**Batch("....", "..I.").call())
        assert not calls

    def test_truncated_away_tokens_still_have_gradients(self):
        model = build(config={"tokenizer_model_max_length": 3})
        model(**Batch("...V..", "....").call()).loss.backward()
        assert all(grad is not None and not grad.any() for grad in ego_grads(model).values())


def test_no_hooks_after_an_exception():
    model, batch = build(), Batch("..V..", "V.")
    before = hooks_of(model)
    branch = branch_of(model)
    branch.reader.forward = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        model(**batch.call())
    del branch.reader.forward
    model.get_vision_tower().forward = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        model(**batch.call())
    del model.get_vision_tower().forward
    assert hooks_of(model) == before == 0
    assert torch.isfinite(model(**batch.call()).loss)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies(copied):
    model, batch = build(), Batch("..V..", "V.")
    other = copied(model)
    assert torch.equal(prepare(other, batch.call())[4], prepare(model, batch.call())[4])
    with torch.no_grad():
        branch_of(other).reader.tokens.add_(1.0)
    assert not torch.equal(prepare(other, batch.call())[4], prepare(model, batch.call())[4])


def test_inference_mode():
    model, batch = build(), Batch("..V..", "V.")
    wanted = prepare(model, batch.call())[4]
    with torch.inference_mode():
        assert torch.equal(prepare(model, batch.call())[4], wanted)
        assert model.generate(**Batch("..V..").asked()).shape[1] == 6


def test_autocast():
    model, batch = build(), Batch("....V..", "V...")
    wanted = model(**batch.call()).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch.call()).loss
    loss.backward()
    assert abs(loss - wanted) < 0.1 * wanted
    assert all(grad.abs().max() > 0 for grad in ego_grads(model).values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_a_float_tower(dtype):
    model, batch = build(), Batch("..V..", "V.")
    wanted = prepare(model, batch.call())[4]
    model.to(dtype)
    model.get_vision_tower().float()
    result = prepare(model, batch.call(images=[x.to(dtype) for x in batch.images]))[4]
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), wanted, atol=0.1, rtol=0.1)


def test_a_second_register_inserts_once():
    llava_ego2exo.register()
    check_rows(build(), Batch("..V..", "V."))


def test_a_step_with_a_cache_passes_through():
    model = build()
    ids = torch.tensor([[5]])
    result = prepare(model, {"input_ids": ids, "images": Batch("..V.").images})
    assert result[0] is ids and result[4] is None
    longer = torch.tensor([[5, 6]])
    assert prepare(model, {"input_ids": longer, "images": None})[0] is longer
