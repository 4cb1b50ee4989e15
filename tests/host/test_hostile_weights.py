"""Weight files that carry code: on a torch that would run it, none of our paths does, and each says which file."""

import contextlib
import io
import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

import llava_ego2exo
from llava_ego2exo.distill.top_k import load_top_k
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.checkpoints import describe, extra_weights
from llava_ego2exo.host.safe_load import only_weights
from llava_ego2exo.host.whole_checkpoints import MANIFEST
from llava_ego2exo.host.whole_weights import require_whole_weights
from llava_ego2exo.merge import merge

from .conftest import run_training

pytestmark = pytest.mark.fault
SHORT = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1, "frames_upbound": 2}


class Payload:
    """Unpickled by an unrestricted unpickler, it makes a folder."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (os.mkdir, (self.mark,))


def zipped(mark):
    """As torch saves today."""
    file = io.BytesIO()
    torch.save({"weight": torch.ones(2), "evil": Payload(mark)}, file)
    return file.getvalue()


def legacy(mark):
    """As torch saved before 1.6."""
    file = io.BytesIO()
    torch.save({"weight": torch.ones(2), "evil": Payload(mark)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def bare(mark):
    """A pickle alone."""
    return pickle.dumps({"weight": 1, "evil": Payload(mark)}, protocol=2)


FORMS = {form.__name__: form for form in (zipped, legacy, bare)}


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """A LoRA run and one of the projector alone, each with a checkpoint-1."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        llava_ego2exo.register()
        train = run_training(world, patch)
        train(root / "lora", **SHORT)
        train(root / "projector", lora_enable=False, tune_mm_mlp_adapter=True, **SHORT)
        llava_ego2exo.unregister()
    return root


@pytest.fixture
def old_torch(monkeypatch):
    """`torch.load` with the default of torch < 2.6, which runs what a file asks for."""
    original = torch.load

    def load(file, *args, weights_only=None, **kwargs):
        return original(file, *args, weights_only=bool(weights_only), **kwargs)

    monkeypatch.setattr(torch, "load", load)


class Tried:
    """Counts files that were tried, and those that were refused by name without having run."""

    def __init__(self, root):
        self.root, self.tried, self.survived, self.lost = root, 0, 0, []

    def __call__(self, use, file, by_name=True, also=()):
        """Replace `file` by each form of payload and use it.

        Args:
            use: what loads it.
            file: to replace; its content is put back.
            by_name: whether it must be refused; else not running it is enough.
            also: files to move away meanwhile.
        """
        kept = file.read_bytes() if file.exists() else None
        away = [(one, one.read_bytes()) for one in also]
        for name, form in FORMS.items():
            mark = self.root / f"ran-{self.tried}"
            for one, _ in away:
                one.unlink()
            file.write_bytes(form(mark))
            self.tried += 1
            message = ""
            try:
                use()
            except Ego2ExoError as error:
                message = str(error)
            finally:
                file.unlink() if kept is None else file.write_bytes(kept)
                for one, content in away:
                    one.write_bytes(content)
            ran, named = mark.exists(), file.name in message
            self.survived += not ran and (named or not by_name)
            if ran or (by_name and not named):
                self.lost.append((file.name, name, "ran" if ran else f"not named: {message[:200]}"))

    def tell(self, fault_table, title):
        assert not self.lost, self.lost
        fault_table(title, self.tried, self.survived)


@pytest.fixture
def tried(tmp_path):
    return Tried(tmp_path)


def test_the_payload_runs_where_nothing_holds_it_back(old_torch, tmp_path):
    for name, form in FORMS.items():
        (tmp_path / "w.bin").write_bytes(form(tmp_path / name))
        torch.load(tmp_path / "w.bin") if name != "bare" else pickle.loads((tmp_path / "w.bin").read_bytes())
        assert (tmp_path / name).is_dir()


def copied(source, target):
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("checkpoint-*"))
    return target


def load(path, base=None):
    from llava.model.builder import load_pretrained_model

    return load_pretrained_model(str(path), base and str(base), "x", torch_dtype="float32")


def test_the_standard_loader(made, world, registered, old_torch, tried, tmp_path, fault_table):
    lora, projector = copied(made / "lora", tmp_path / "lora"), copied(made / "projector", tmp_path / "projector")
    full = copied(world.base(), tmp_path / "full_llama")
    adapter, weights = lora / "adapter_model.safetensors", full / "model.safetensors"
    tried(lambda: load(lora, world.base()), lora / "non_lora_trainables.bin")
    tried(lambda: load(lora, world.base()), lora / "adapter_model.bin", also=[adapter])
    tried(lambda: load(projector, world.base()), projector / "mm_projector.bin")
    tried(lambda: load(full), full / "pytorch_model.bin", also=[weights])
    tried(lambda: load(lora, full), full / "pytorch_model.bin", also=[weights])
    index = full / "pytorch_model.bin.index.json"
    names = dict.fromkeys(load_file(weights), "pytorch_model-1.bin")
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    tried(lambda: load(full), full / "pytorch_model-1.bin", also=[weights])
    index.unlink()
    tower = world.root / "vision_tower"
    tried(lambda: load(full), tower / "pytorch_model.bin", also=[tower / "model.safetensors"])
    tried.tell(fault_table, "weight files with a pickle payload, standard loader")


def test_merging(made, world, old_torch, tried, tmp_path, fault_table):
    lora, full = copied(made / "lora", tmp_path / "lora"), copied(world.base(), tmp_path / "full_llama")

    def run(base):
        merge(str(lora), str(base), str(tmp_path / f"merged{tried.tried}"))

    tried(lambda: run(world.base()), lora / "non_lora_trainables.bin")
    tried(lambda: run(world.base()), lora / "adapter_model.bin", also=[lora / "adapter_model.safetensors"])
    tried(lambda: run(full), full / "pytorch_model.bin", also=[full / "model.safetensors"])
    tried.tell(fault_table, "weight files with a pickle payload, merge")
    assert not list(tmp_path.glob("merged*"))
    llava_ego2exo.unregister()


def test_the_start_of_training(made, world, train, old_torch, tried, tmp_path, fault_table):
    full, tower = copied(world.base(), tmp_path / "full_llama"), world.root / "vision_tower"
    adapter = tmp_path / "mm_projector.bin"

    def start(**flags):
        train(tmp_path / "out", model_name_or_path=full, **SHORT, **flags)

    tried(start, full / "pytorch_model.bin", also=[full / "model.safetensors"])
    tried(start, tower / "pytorch_model.bin", also=[tower / "model.safetensors"])
    tried(lambda: start(pretrain_mm_mlp_adapter=adapter), adapter)
    tried.tell(fault_table, "weight files with a pickle payload, start of training")


def test_resuming(made, train, old_torch, tried, tmp_path, fault_table):
    for kind, flags in (("lora", {}), ("projector", {"lora_enable": False, "tune_mm_mlp_adapter": True})):
        saved = tmp_path / kind / "checkpoint-1"
        shutil.copytree(made / kind / "checkpoint-1", saved)
        names = [file.name for file in saved.iterdir() if file.suffix in (".bin", ".pt", ".pth")]
        assert {"optimizer.pt", "scheduler.pt", "rng_state.pth"} <= set(names), names
        for name in sorted(names) if kind == "lora" else ["mm_projector.bin"]:

            def resume(saved=saved, name=name, flags=flags):
                _say_whole(saved, name)
                train(saved.parent, **{**SHORT, "max_steps": 2, "save_strategy": "no"}, **flags)

            # transformers reads every file but its own arguments, of which it only keeps a copy.
            tried(resume, saved / name, by_name=name != "training_args.bin")
        if kind == "lora":
            whole = saved / "adapter_model.safetensors"
            tried(lambda saved=saved, resume=resume: resume(saved, "adapter_model.bin"), saved / "adapter_model.bin",
                  also=[whole])  # fmt: skip
    tried.tell(fault_table, "checkpoint files with a pickle payload, resuming")


def _say_whole(saved, name):
    """Whoever changes a file can change the list of files too."""
    found = json.loads((saved / MANIFEST).read_text())
    found["files"] = {file.name: file.stat().st_size for file in saved.iterdir() if file.name != MANIFEST}
    assert name in found["files"]
    (saved / MANIFEST).write_text(json.dumps(found))


def test_weight_files_that_are_cut_or_changed(made, world, registered, tmp_path, fault_table):
    """Cut anywhere they are refused by name; with changed bytes they are too, or hold other numbers."""
    lora, projector = copied(made / "lora", tmp_path / "lora"), copied(made / "projector", tmp_path / "projector")
    readers = {
        lora / "non_lora_trainables.bin": lambda: extra_weights(describe(str(lora))),
        projector / "mm_projector.bin": lambda: extra_weights(describe(str(projector))),
        lora / "adapter_model.safetensors": lambda: require_whole_weights(lora),
    }
    for file, read in readers.items():
        content, cut, changed, tried = file.read_bytes(), 0, 0, 0
        read()
        offsets = sorted(
            {*range(0, len(content), len(content) // 150), *range(40), *range(len(content) - 40, len(content))}
        )
        for offset in offsets:
            file.write_bytes(content[:offset])
            cut += _named(read, file) is True
            tried += 1
        fault_table(f"cut at many offsets: {file.name}", tried, cut)
        for offset in offsets:
            file.write_bytes(content[:offset] + bytes([content[offset] ^ 0x55]) + content[offset + 1 :])
            changed += _named(read, file) is not False
        fault_table(f"with a changed byte: {file.name}", tried, changed)
        file.write_bytes(content)
    weights = lora / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(Ego2ExoError, match="adapter_model.safetensors has .* bytes"):
        load(lora, world.base())


def _named(read, file):
    """Whether a reader refuses a file by its name; None where it reads it."""
    try:
        read()
    except Ego2ExoError as error:
        return file.name in str(error)
    except Exception:
        return False
    return None


def bringing_code(folder, source, mark, kind):
    """A copy of a model's folder with a class of its own, which leaves a mark when it is imported."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {kind: "evil.Evil"}}))
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass Evil: pass\n")
    return folder


def test_code_that_a_model_brings_along(flavour, world, train, tmp_path, fault_table):
    """LLaVA-NeXT runs a tower's whose name begins with `hf:`, llava-torch a base's with `mpt` in its path."""
    mark, tried, survived = tmp_path / "ran", 0, 0
    if flavour == "next":
        full = copied(world.base(), tmp_path / "full_llama")
        tower = bringing_code(tmp_path / "tower", world.root / "vision_tower", mark, "AutoModel")
        config = json.loads((full / "config.json").read_text())
        (full / "config.json").write_text(json.dumps({**config, "mm_vision_tower": f"hf:{tower}"}))
        uses = [lambda: load(full), lambda: train(tmp_path / "out", model_name_or_path=full, **SHORT)]
        uses += [lambda: train(tmp_path / "out", vision_tower=f"hf:{tower}", **SHORT)]
    else:
        base = bringing_code(tmp_path / "mpt_llama", world.base(), mark, "AutoConfig")
        uses = [lambda: train(tmp_path / "out", model_name_or_path=base, **SHORT)]
    for use in uses:
        tried += 1
        with pytest.raises(Ego2ExoError, match="brings Python code of its own.*LLAVA_EGO2EXO_REMOTE_CODE=1"):
            use()
        survived += not mark.exists()
    fault_table("models that bring Python code", tried, survived)
    # Called as LLaVA calls it, transformers runs the code.
    kind, folder = (AutoModel, tower) if flavour == "next" else (AutoConfig, base)
    with contextlib.suppress(Exception):
        kind.from_pretrained(folder, trust_remote_code=True)
    assert mark.exists()


def test_odd_configs_and_lists_of_weights(world, registered, tmp_path, fault_table):
    full = copied(world.base(), tmp_path / "full_llama")
    config, weights = full / "config.json", full / "model.safetensors"
    odd = ["[" * 100_000, '{"a":' * 900 + "1" + "}" * 900, "[]", "", "\0", '{"weight_map": ']
    tried, survived = 0, 0
    for file in (config, full / "model.safetensors.index.json"):
        kept = config.read_bytes()
        for content in odd:
            file.write_text(content)
            tried += 1
            try:
                load(full)
            except Ego2ExoError as error:
                survived += file.name in str(error)
            except Exception as error:
                print("LOST", file.name, content[:30], type(error).__name__, str(error)[:200])
            else:
                print("LOST", file.name, content[:30])
        config.write_bytes(kept)
        weights.unlink(missing_ok=True)
    fault_table("odd config.json and lists of weights", tried, survived)


def test_stored_logits(tmp_path, fault_table):
    key, tried, survived = "ab" * 16, 0, 0
    file = tmp_path / "top_k" / "ab" / f"{key}.npz"
    file.parent.mkdir(parents=True)
    for form in ("npz", "bare"):
        mark = tmp_path / f"ran-{form}"
        if form == "npz":
            evil = np.array([Payload(mark)], dtype=object)
            np.savez(file, tokens=evil, ids=evil, logits=evil)
        else:
            file.write_bytes(bare(mark))
        tried += 1
        with pytest.raises(Ego2ExoError, match=f"{key}.npz is damaged"):
            load_top_k(tmp_path, key)
        survived += not mark.exists()
    fault_table("stored logits with a pickle payload", tried, survived)


def test_blocks_in_each_other_and_in_threads(old_torch, tmp_path):
    import threading

    before = torch.load
    inside, leave, found = threading.Event(), threading.Event(), []

    def other():
        with only_weights():
            inside.set()
            leave.wait(10)
            try:
                torch.load(tmp_path / "w.bin")
            except Ego2ExoError as error:
                found.append(str(error))

    (tmp_path / "w.bin").write_bytes(zipped(tmp_path / "ran"))
    thread = threading.Thread(target=other)
    with only_weights(), only_weights():
        thread.start()
        inside.wait(10)
    leave.set()
    thread.join(10)
    assert torch.load is before and "w.bin is no plain weight file" in found[0] and not (tmp_path / "ran").exists()
