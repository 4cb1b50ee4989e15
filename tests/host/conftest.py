"""Host tests run on whichever `llava` is importable: LLaVA-NeXT or llava-torch."""

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("llava") is None:
    collect_ignore_glob = ["test_*.py"]

import llava_ego2exo
from llava_ego2exo.demo.models import tiny_llava
from tests.videos import render_set


@pytest.fixture(scope="session")
def flavour():
    from llava_ego2exo.host.hooks.flavour import detect

    return detect()


@pytest.fixture(scope="session")
def kinds(flavour):
    """Language models with a tiny checkpoint in this flavour."""
    return ("llama", "qwen") if flavour == "next" else ("llama",)


@pytest.fixture
def registered():
    """The plugin hooked in for one test."""
    llava_ego2exo.register()
    yield
    llava_ego2exo.unregister()


class World:
    """Rendered videos with their training JSON, and a base checkpoint for each kind of language model."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.videos = root / "videos"
        self.data = render_set(self.videos)
        self._bases: dict[str, Path] = {}

    def base(self, kind: str = "llama") -> Path:
        """A tiny LLaVA checkpoint without ego tokens."""
        if kind not in self._bases:
            self._bases[kind] = tiny_llava(self.root / f"base_{kind}", kind)
        return self._bases[kind]

    def template(self, kind: str) -> str:
        return {"llama": "v1", "qwen": "qwen_1_5"}[kind]

    def use_template(self, kind: str) -> None:
        """Put LLaVA's global template back, for samples of a run that is not the last one."""
        from llava import conversation

        conversation.default_conversation = conversation.conv_templates[self.template(kind)]

    def arguments(self, out: Path, kind: str = "llama", **flags) -> list[str]:
        """A training command line; `flags` overrides, None leaves a flag out."""
        values = {
            "model_name_or_path": self.base(kind), "version": self.template(kind), "data_path": self.data,
            "video_folder": self.videos, "output_dir": out, "ego2exo": True, "ego2exo_num_tokens": 4,
            "num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 5e-3, "mm_projector_lr": 5e-3,
            "lora_enable": True, "lora_r": 16, "lora_alpha": 32, "use_cpu": True, "frames_upbound": 4,
            "model_max_length": 1024, "logging_steps": 1, "save_strategy": "no", "report_to": "none",
            "dataloader_num_workers": 0, "disable_tqdm": True, "gradient_checkpointing": False,
            "ego2exo_check_saved": False, **flags,
        }  # fmt: skip
        return [part for name, value in values.items() if value is not None for part in (f"--{name}", str(value))]


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def no_model(monkeypatch):
    """From a call of it on, loading a model to ask is an error."""
    from llava_ego2exo.host.inference import answerer

    def forbid():
        monkeypatch.setattr(answerer, "load", lambda *_a, **_k: pytest.fail("a model was loaded"))

    return forbid


@pytest.fixture
def no_weights(monkeypatch):
    """Loading any weight fails the test."""
    from transformers import PreTrainedModel

    def refuse(cls, *args, **kwargs):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(refuse))


@pytest.fixture
def train(world, monkeypatch, registered):
    """Run LLaVA's own `train()` in this process; returns the trainer it made."""
    return run_training(world, monkeypatch)


STUDENTS = {
    "lora": {},
    "lora_bf16": {"bf16": True},
    "qlora4": {"bits": 4, "bf16": True},
    "full": {"lora_enable": False, "learning_rate": 2e-3},
    "projector": {"lora_enable": False, "tune_mm_mlp_adapter": True, "num_train_epochs": 8},
}


@dataclass(frozen=True)
class Student:
    """A trained student that tests share: read it, never write to it."""

    folder: Path
    base: Path | None  # to load it with; None for a whole model
    trainer: Any  # with its model in memory

    def copy(self, to: Path) -> Path:
        """A folder of its own, for a test that damages it."""
        return Path(shutil.copytree(self.folder, to))


@pytest.fixture(scope="session")
def trained_students():
    return {}


@pytest.fixture
def student(world, train, trained_students):
    """`student(kind, way)`: a run of `STUDENTS` that knows the world's videos by heart, trained once a session."""

    def get(kind: str = "llama", way: str = "lora") -> Student:
        if (kind, way) not in trained_students:
            folder = world.root / "students" / f"{way}_{kind}"
            trainer = train(folder, kind, **{"num_train_epochs": 40, **STUDENTS[way]})
            trained_students[kind, way] = Student(folder, None if way == "full" else world.base(kind), trainer)
        world.use_template(kind)
        return trained_students[kind, way]

    return get


def run_training(world, monkeypatch):
    def run(out: Path, kind: str = "llama", **flags):
        from accelerate.state import AcceleratorState
        from llava.train import train as host

        AcceleratorState._reset_state(True)
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # a bf16 run before leaves it at bf16
        made = []
        original = host.LLaVATrainer

        class Spy(type(original)):
            def __call__(cls, *args, **kwargs):
                made.append(original(*args, **kwargs))
                return made[-1]

        monkeypatch.setattr(sys, "argv", ["train", *world.arguments(out, kind, **flags)])
        with monkeypatch.context() as patch:  # undone before the plugin is, which would else be found again behind it
            patch.setattr(host, "LLaVATrainer", Spy("LLaVATrainer", (original,), {}))
            host.train()
        return made[0]

    return run


def losses(trainer) -> list[float]:
    """The logged training losses."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
