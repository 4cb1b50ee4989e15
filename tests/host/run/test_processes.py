"""Two processes train as one: through the real command under torchrun, with batches of every kind."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llava_ego2exo.errors import Ego2ExoError

from ..resume.test_resume import saved_log, saved_weights
from ..training.distillation import ANSWERS, PLAIN

REPOSITORY = Path(__file__).parents[3]
# A key's bias has no gradient but rounding, which Adam would blow up to whole steps.
STEADY = {"adam_epsilon": 1e-3, "num_train_epochs": 4, "model_max_length": 1024, **PLAIN}


@pytest.fixture(scope="module")
def mixed(world):
    """Eight samples of three kinds, so that the batches of two processes hold different kinds."""
    images, videos, samples = world.root / "mixed_images", sorted(world.videos.glob("*.mp4")), []
    images.mkdir(exist_ok=True)
    for index in range(8):
        answer = {"from": "gpt", "value": ANSWERS[index % 4]}
        turns = [{"from": "human", "value": "<image>\nWhat moves, and where to?"}, answer]
        sample = {"id": str(index), "conversations": turns, "replay": True}
        if index % 3 == 0:
            sample |= {"video": videos[index // 3].name, "ego_video": videos[index // 3 + 1].name, "replay": False}
        elif index % 3 == 1:
            pixels = np.random.default_rng(index).integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"{index}.png")
            sample["image"] = f"{index}.png"
        else:
            turns[0]["value"] = "What moves?"
        samples.append(sample)
    file = world.root / "mixed.json"
    file.write_text(json.dumps(samples))
    return {"data_path": file, "image_folder": images}


def start(world, processes, out, module="llava_ego2exo.train", **flags):
    """The real command in processes of its own, as its own group, so that a hang leaves nothing behind."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, "-W", "ignore", *launch, "-m", module]
    kept = {"PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(REPOSITORY)]))}
    return subprocess.Popen(
        [*command, *world.arguments(out, **flags)], env={**os.environ, **kept}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process, seconds=150):
    """What it has printed; one that hangs is an error."""
    try:
        printed = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"a run hangs: {process.communicate()[0][-3000:]}")
    assert process.returncode == 0, printed[-6000:]
    return printed


def logs(folder, key):
    return [entry[key] for entry in saved_log(folder) if key in entry]


@pytest.mark.slow
def test_two_processes_train_as_one(world, mixed, train, tmp_path):
    """LoRA with a KL, accumulation, reentrant checkpointing, both stages, batches without a video on one side."""
    flags = {**STEADY, **mixed, "gradient_checkpointing": True, "gradient_accumulation_steps": 2}
    flags |= {"ego2exo_kd_weight": 0.5, "ego2exo_bottleneck": 0.5, "ego2exo_modalities": "video,image"}
    one, two = tmp_path / "one", tmp_path / "two"
    process = start(world, 2, two, **flags, per_device_train_batch_size=2, ddp_backend="gloo")
    train(one, **flags, per_device_train_batch_size=4)
    assert finish(process).count("tensors  parameters") == 1
    for key in ("loss", "answer_tokens", "loss_kl", "kl_tokens"):
        assert logs(two, key) == pytest.approx(logs(one, key), rel=2e-4, abs=2e-4) and logs(one, key), key
    expected, found = saved_weights(one), saved_weights(two)
    assert found.keys() == expected.keys() and any("ego_tokens" in name for name in found)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.fixture
def zero(tmp_path):
    """A DeepSpeed config of a ZeRO stage."""

    def write(stage):
        auto = ["gradient_accumulation_steps", "gradient_clipping", "train_batch_size"]
        auto.append("train_micro_batch_size_per_gpu")
        settings = {"zero_optimization": {"stage": stage}, **dict.fromkeys(auto, "auto")}
        settings |= {name: {"enabled": "auto"} for name in ("fp16", "bf16")}  # left out, transformers takes float16
        (tmp_path / f"zero{stage}.json").write_text(json.dumps({**settings, "zero_allow_untested_optimizer": True}))
        return tmp_path / f"zero{stage}.json"

    return write


@pytest.mark.slow
def test_deepspeed_stage_two_resumes_as_the_same_run(world, mixed, zero, tmp_path):
    """Two processes, with their optimizer's shards from before the interruption."""
    pytest.importorskip("deepspeed")
    flags = {**STEADY, **mixed, "gradient_checkpointing": True, "ddp_backend": "gloo", "deepspeed": zero(2)}
    flags |= {"per_device_train_batch_size": 2, "max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    # Two steps of the four without ordinary tokens; samples where a batch has a clip, on one process or both.
    flags |= {"ego2exo_bottleneck": 0.5, "ego2exo_modalities": "video,image", "ego2exo_kd_weight": 0.5}
    flags |= {"ego2exo_on_policy": 1.0, "ego2exo_sample_tokens": 6}
    flags |= {"use_cpu": None, "lr_scheduler_type": "constant"}  # --use_cpu leaves DeepSpeed out silently
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    log = finish(start(world, 2, whole, module="tests.host.run.deepspeed_worker", **flags))
    assert "under DeepSpeed the loss is" in log
    assert len(list(whole.glob("checkpoint-1/global_step1/*optim_states.pt"))) == 2
    shutil.copytree(whole / "checkpoint-1", cut / "checkpoint-1")
    finish(start(world, 2, cut, module="tests.host.run.deepspeed_worker", **flags))
    assert saved_log(cut) == saved_log(whole) and len(logs(cut, "loss")) == 4
    assert any("sample_kl" in entry for entry in saved_log(cut) if entry["step"] > 1)
    expected, found = saved_weights(whole), saved_weights(cut)
    assert found.keys() == expected.keys() and any("ego_tokens.reader.tokens" in name for name in found)
    assert all(value.numel() and torch.equal(value, expected[name]) for name, value in found.items())


def test_stage_three_is_refused_before_any_weight_loads(train, no_weights, mixed, zero, tmp_path):
    with pytest.raises(Ego2ExoError) as error:
        train(tmp_path / "out", **mixed, deepspeed=zero(3))
    assert "--deepspeed " in error.value.given and "ZeRO stage 2" in error.value.allowed
    assert not (tmp_path / "out").exists()
