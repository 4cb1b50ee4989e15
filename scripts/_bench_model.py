"""LLaVA models with random weights and trainers around them, for the scripts `bench_*.py`: nothing is downloaded."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_DISABLED", "true")

# "cpu": Qwen2-7B and SigLIP so400m at an eighth of width, heads and vocabulary and a quarter of the layers. Patches,
# visual tokens a frame and ego tokens are the real ones, and with them what each part costs beside the others.
LANGUAGE = {
    "cpu": {"hidden_size": 448, "intermediate_size": 2368, "num_hidden_layers": 7, "num_attention_heads": 4,
            "num_key_value_heads": 1, "vocab_size": 19008},
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064},
}  # fmt: skip
_CPU_TOWER = {"width": 144, "layers": 7, "heads": 2, "size": 189}
QUESTION, ANSWER = "What does the person do with the left hand?", "A red block moves left. A green block. " * 12


def checkpoint(size: str, folder: Path) -> Path:
    """A LLaVA checkpoint with random weights, made once.

    Args:
        size: key of `LANGUAGE`.
        folder: where checkpoints of this kind lie.
    """
    from llava_ego2exo.demo.models import tiny_llava, tiny_tower
    from llava_ego2exo.host.hooks.flavour import NEXT, detect

    kind = "qwen" if detect() == NEXT else "llama"
    base = folder / f"{size}_{kind}"
    if (base / "config.json").is_file():
        return base
    print(f"making {base} with random weights", file=sys.stderr, flush=True)
    tower = tiny_tower(folder / "cpu_tower", **_CPU_TOWER) if size == "cpu" else _large_tower(folder)
    language = {**LANGUAGE[size], "max_position_embeddings": 32768, "initializer_range": 0.02}
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if size == "cpu" else torch.bfloat16)
    # A CPU takes minutes to draw billions of numbers.
    device = "cuda" if size != "cpu" and torch.cuda.is_available() else "cpu"
    try:
        with torch.device(device):
            return tiny_llava(base, kind, tower=tower, language=language)
    finally:
        torch.set_default_dtype(kept)


def _large_tower(folder: Path) -> Path:
    """SigLIP so400m where the host knows it, else CLIP ViT-L/14-336; random weights."""
    from transformers import CLIPImageProcessor, SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    from llava_ego2exo.demo.models import tiny_tower
    from llava_ego2exo.host.hooks.flavour import NEXT, detect

    if detect() != NEXT:
        tower = tiny_tower(folder / "clip", width=1024, layers=24, heads=16, size=168)  # 24 patches in a row
        CLIPImageProcessor(size={"shortest_edge": 168}, crop_size={"height": 168, "width": 168}).save_pretrained(tower)
        return tower
    tower = folder / "siglip"
    sizes = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=384, patch_size=14)).save_pretrained(tower)
    SiglipImageProcessor(size={"height": 384, "width": 384}).save_pretrained(tower)
    return tower


FILES = {"video": "clip.mp4", "image": "picture.png", "text": None}


def material(folder: Path, frames: int, kinds: tuple[str, ...] = tuple(FILES)) -> Path:
    """A drawn video of so many frames, a picture, and a training JSON with a sample of each kind."""
    import av
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (192, 192, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "picture.png")
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 192
        stream.pix_fmt = "yuv420p"
        for shift in range(frames):
            picture = np.ascontiguousarray(np.roll(noise, shift * 4, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    samples = []
    for kind in kinds:
        name = FILES[kind]
        asked = QUESTION if name is None else f"<image>\n{QUESTION}"
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": ANSWER}]
        samples.append({"id": kind, "conversations": turns, **({kind: name} if name else {})})
    data = folder / "train.json"
    data.write_text(json.dumps(samples))
    return data


def version() -> str:
    """LLaVA's conversation template of these checkpoints."""
    from llava_ego2exo.host.hooks.flavour import NEXT, detect

    return "qwen_1_5" if detect() == NEXT else "v1"


def trainer(base: Path, data: Path, out: Path, **flags: Any) -> Any:
    """The trainer that LLaVA's own train script makes, after one step of training.

    Args:
        base: the checkpoint.
        data: what :func:`material` made.
        out: folder of the run.
        flags: further training flags; None leaves one out.
    """
    cuda = torch.cuda.is_available()
    values = {
        "model_name_or_path": base, "version": version(), "data_path": data,
        "video_folder": data.parent, "image_folder": data.parent, "output_dir": out, "max_steps": 1,
        "lora_enable": True, "per_device_train_batch_size": 1, "model_max_length": 32768, "logging_steps": 1,
        "save_strategy": "no", "vision_tower_dtype": "bfloat16" if cuda else "float32",
        "report_to": "none", "dataloader_num_workers": 0, "disable_tqdm": True, "gradient_checkpointing": True,
        "use_cpu": not cuda, "bf16": cuda, "force_sample": True, "learning_rate": 1e-5, "ego2exo_check_saved": False,
        **flags,
    }  # fmt: skip
    argv = [part for name, value in values.items() if value is not None for part in (f"--{name}", str(value))]
    with contextlib.redirect_stdout(sys.stderr):
        return _trained(argv)


def _trained(argv: list[str]) -> Any:
    import llava_ego2exo

    llava_ego2exo.register()
    from accelerate.state import AcceleratorState
    from llava.train import train as host

    AcceleratorState._reset_state(True)
    made, original, given = [], host.LLaVATrainer, sys.argv

    class Spy(type(original)):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            made.append(original(*args, **kwargs))
            return made[-1]

    host.LLaVATrainer, sys.argv = Spy("LLaVATrainer", (original,), {}), ["train", *argv]
    try:
        host.train()
    finally:
        host.LLaVATrainer, sys.argv = original, given
    return made[0]


def batch(trained: Any, rows: tuple[int, ...]) -> dict[str, Any]:
    """Samples by number (0 the video, 1 the picture, 2 text alone) as the trainer would get them."""
    return trained.data_collator([trained.train_dataset[row] for row in rows])


def step(trained: Any, inputs: dict[str, Any]) -> None:
    """Forward, backward and the optimizer's step."""
    trained.training_step(trained.model_wrapped, dict(inputs))
    trained.optimizer.step()
    trained.model.zero_grad()


def planned(base: Path, inputs: dict[str, Any], frames: int, bits: int, flags: dict[str, Any]) -> int:
    """Bytes that `llava-ego2exo plan` predicts for such a step, of a run with these flags of the plugin."""
    from llava_ego2exo.config import Ego2ExoConfig
    from llava_ego2exo.host.hooks.flavour import NEXT, detect
    from llava_ego2exo.planning.memory import estimate
    from llava_ego2exo.planning.model import RunShape
    from llava_ego2exo.planning.shapes import read_shapes

    config = {**json.loads((base / "config.json").read_text()), "ego2exo_pool": flags.get("ego2exo_pool")}
    ego = Ego2ExoConfig.from_object(SimpleNamespace(**flags)) if flags.get("ego2exo") else None
    tower = json.loads((Path(config["mm_vision_tower"]) / "config.json").read_text())
    answer = int((inputs["labels"] != -100).sum())
    cuda = torch.cuda.is_available()
    run = RunShape(
        frames=frames, bits=bits, prompt=inputs["labels"].shape[1] - 1 - answer, answer=answer, on_card=cuda,
        ego=ego, dtype=torch.bfloat16 if cuda else torch.float32,
    )  # fmt: skip
    return estimate(read_shapes(config, tower, detect() == NEXT), run).peak
