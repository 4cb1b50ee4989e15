"""Weight files that carry code or are damaged: even a torch that would run the code does not; errors name the file."""

import contextlib
import json
import os
import random
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel

import llava_ego2exo
from llava_ego2exo.distill.teach.store import load_top_k
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.checkpoint.files import describe, extra_weights
from llava_ego2exo.host.checkpoint.safety import only_weights, require_whole_weights
from llava_ego2exo.host.merge import merge
from llava_ego2exo.host.resume.checkpoints import MANIFEST

from ..conftest import run_training
from ..models import SEED

SHORT = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1, "frames_upbound": 2}


class Payload:
    """Unpickled by an unrestricted unpickler, it makes a folder."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (os.mkdir, (self.mark,))


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """A LoRA run with a checkpoint-1."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        llava_ego2exo.register()
        run_training(world, patch)(root / "lora", **SHORT)
        llava_ego2exo.unregister()
    return root / "lora"


@pytest.fixture
def old_torch(monkeypatch):
    """`torch.load` with the default of torch < 2.6, which runs what a file asks for."""
    original = torch.load

    def load(file, *args, weights_only=None, **kwargs):
        return original(file, *args, weights_only=bool(weights_only), **kwargs)

    monkeypatch.setattr(torch, "load", load)


@pytest.fixture
def refuses(old_torch, tmp_path):
    """Put a file with a payload in a file's place, use it, and put everything back."""
    mark = tmp_path / "ran"

    def check(use, file, instead_of=None):
        kept = {one: one.read_bytes() for one in (file, instead_of) if one is not None and one.exists()}
        for one in kept:
            one.unlink()
        torch.save({"weight": torch.ones(2), "evil": Payload(mark)}, file)
        try:
            with pytest.raises(Ego2ExoError, match=file.name):
                use()
        finally:
            file.unlink()
            for one, content in kept.items():
                one.write_bytes(content)
        assert not mark.exists()

    return check


def test_the_payload_runs_where_nothing_holds_it_back(old_torch, tmp_path):
    torch.save({"evil": Payload(tmp_path / "ran")}, tmp_path / "w.bin")
    before = torch.load
    with only_weights(), only_weights(), pytest.raises(Ego2ExoError, match="w.bin"):
        torch.load(tmp_path / "w.bin")
    assert torch.load is before and not (tmp_path / "ran").exists()
    torch.load(tmp_path / "w.bin")
    assert (tmp_path / "ran").is_dir()


def copied(source, target):
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("checkpoint-*"))
    return target


def load(path, base=None):
    from llava.model.builder import load_pretrained_model

    return load_pretrained_model(str(path), base and str(base), "x", torch_dtype="float32")


def test_loading_and_merging(made, world, registered, refuses, tmp_path):
    lora, full, tower = copied(made, tmp_path / "lora"), world.base(), world.root / "vision_tower"
    refuses(lambda: load(lora, world.base()), lora / "adapter_model.bin", lora / "adapter_model.safetensors")
    refuses(lambda: load(full), tower / "pytorch_model.bin", tower / "model.safetensors")
    out = tmp_path / "merged"
    refuses(lambda: merge(str(lora), str(world.base()), str(out)), lora / "non_lora_trainables.bin")
    assert not out.exists()


def test_training(world, train, refuses, tmp_path):
    full, adapter = copied(world.base(), tmp_path / "full_llama"), tmp_path / "mm_projector.bin"

    def start(**flags):
        train(tmp_path / "out", model_name_or_path=full, **SHORT, **flags)

    refuses(start, full / "pytorch_model.bin", full / "model.safetensors")
    refuses(lambda: start(pretrain_mm_mlp_adapter=adapter), adapter)


def test_resuming(made, train, refuses, tmp_path):
    saved = tmp_path / "out" / "checkpoint-1"
    shutil.copytree(made / "checkpoint-1", saved)

    def resume():
        found = json.loads((saved / MANIFEST).read_text())  # whoever changes a file can change the list of files too
        found["files"] = {file.name: file.stat().st_size for file in saved.iterdir() if file.name != MANIFEST}
        (saved / MANIFEST).write_text(json.dumps(found))
        train(saved.parent, **{**SHORT, "max_steps": 2, "save_strategy": "no"})

    for name in ("optimizer.pt", "rng_state.pth", "non_lora_trainables.bin"):
        refuses(resume, saved / name)


def test_weight_files_that_are_cut_or_changed(made, world, registered, tmp_path):
    """Cut anywhere they are refused by name; with a changed byte they are too, or hold other numbers."""
    lora, chosen = copied(made, tmp_path / "lora"), random.Random(SEED)
    readers = {
        lora / "non_lora_trainables.bin": lambda: extra_weights(describe(str(lora))),
        lora / "adapter_model.safetensors": lambda: require_whole_weights(lora),
    }
    for file, read in readers.items():
        content = file.read_bytes()
        read()
        for offset in (0, 9, len(content) - 1, chosen.randrange(len(content))):
            file.write_bytes(content[:offset])
            with pytest.raises(Ego2ExoError, match=file.name):
                read()
            file.write_bytes(content[:offset] + bytes([content[offset] ^ 0x55]) + content[offset + 1 :])
            with contextlib.suppress(Ego2ExoError):
                read()
        file.write_bytes(content)
    weights = lora / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(Ego2ExoError, match="adapter_model.safetensors"):
        load(lora, world.base())


def bringing_code(folder, source, mark, kind):
    """A copy of a model's folder with a class of its own, which leaves a mark when it is imported."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {kind: "evil.Evil"}}))
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass Evil: pass\n")
    return folder


def test_code_that_a_model_brings_along(flavour, world, train, tmp_path):
    """LLaVA-NeXT runs that of a tower whose name begins with `hf:`."""
    if flavour != "next":
        pytest.skip("llava-torch has no such towers")
    mark, full = tmp_path / "ran", copied(world.base(), tmp_path / "full_llama")
    folder = bringing_code(tmp_path / "tower", world.root / "vision_tower", mark, "AutoModel")
    config = json.loads((full / "config.json").read_text())
    (full / "config.json").write_text(json.dumps({**config, "mm_vision_tower": f"hf:{folder}"}))
    for use in (lambda: load(full), lambda: train(tmp_path / "out", vision_tower=f"hf:{folder}", **SHORT)):
        with pytest.raises(Ego2ExoError, match="LLAVA_EGO2EXO_REMOTE_CODE=1"):
            use()
        assert not mark.exists()
    with contextlib.suppress(Exception):  # called as LLaVA calls it, transformers runs the code
        AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert mark.exists()


def test_odd_configs_and_lists_of_weights(world, registered, tmp_path):
    full = copied(world.base(), tmp_path / "full_llama")
    kept = (full / "config.json").read_bytes()
    for file in (full / "config.json", full / "model.safetensors.index.json"):
        for content in ("[" * 100_000, "[]", ""):
            file.write_text(content)
            with pytest.raises(Ego2ExoError, match=file.name):
                load(full)
        (full / "config.json").write_bytes(kept)
        (full / "model.safetensors").unlink(missing_ok=True)


def test_stored_logits(tmp_path):
    key, mark = "ab" * 16, tmp_path / "ran"
    file = tmp_path / "top_k" / "ab" / f"{key}.npz"
    file.parent.mkdir(parents=True)
    evil = np.array([Payload(mark)], dtype=object)
    np.savez(file, tokens=evil, ids=evil, logits=evil)
    with pytest.raises(Ego2ExoError, match=f"{key}.npz"):
        load_top_k(tmp_path, key)
    assert not mark.exists()


def test_deepspeeds_own_classes_in_optimizer_shards_are_read(tmp_path):
    """What `engine.save_checkpoint` puts beside tensors under ZeRO stages 1 and 2."""
    scaler = pytest.importorskip("deepspeed.runtime.fp16.loss_scaler")
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    given = [scaler.DynamicLossScaler(2.0**16, 2.0), ZeroStageEnum.gradients, scaler.LossScaler(1.0)]
    torch.save([*given, {"w": fragment_address(numel=3, start=1)}], tmp_path / "s")
    with only_weights():
        dynamic, stage, static, slices = torch.load(tmp_path / "s")
    assert (dynamic.cur_scale, stage, static.cur_scale, slices["w"].start) == (2.0**16, given[1], 1.0, 1)

    class ByGetattr:
        """As Python 3.11.2 writes a member of an enumeration."""

        def __init__(self, *given):
            self.given = given

        def __reduce__(self):
            return getattr, self.given

    torch.save([ByGetattr(ZeroStageEnum, "gradients")], tmp_path / "m")
    torch.save([ByGetattr(fragment_address, "__module__")], tmp_path / "other")
    with only_weights():
        assert torch.load(tmp_path / "m") == [ZeroStageEnum.gradients]
        with pytest.raises(Ego2ExoError):
            torch.load(tmp_path / "other")
