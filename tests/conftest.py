"""What every test shares: no hub, one thread (tiny matrices are faster on one), training's parser, real data."""

import gc
import importlib.util
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_DISABLED", "true")

import pytest
import torch

torch.set_num_threads(1)
# A frame that PyAV converted waits for its converter's threads when it is collected, and a forked process has none.
os.register_at_fork(before=gc.collect)

REAL_VIDEOS = Path(os.environ.get("EGO2EXO_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "videos"


@pytest.fixture
def real_videos() -> Path:
    """Folder of the real videos that lie beside the repository on the developers' machines."""
    if not REAL_VIDEOS.is_dir():
        pytest.skip(f"no real videos at {REAL_VIDEOS} (set EGO2EXO_SHARED)")
    return REAL_VIDEOS


@pytest.fixture
def training_parser():
    """The parser of LLaVA's training script, with the plugin's flags."""
    if importlib.util.find_spec("llava") is None:
        pytest.skip("no llava is importable")
    from transformers import HfArgumentParser

    import llava_ego2exo

    llava_ego2exo.register()
    try:
        from llava.train import train

        return HfArgumentParser((train.ModelArguments, train.DataArguments, train.TrainingArguments))
    finally:
        llava_ego2exo.unregister()


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="no CUDA device")
        for item in items:
            if item.get_closest_marker("gpu"):  # keywords hold the names of folders too
                item.add_marker(skip)
