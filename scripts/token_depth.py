"""Whether untrained ego tokens, carried through a deep vision tower, still look like patches to the projector.

    python scripts/token_depth.py --tower openai/clip-vit-large-patch14-336 --frames a.png b.png c.png d.png
    python scripts/token_depth.py --trained      # a small tower that the demo's pretraining makes, in minutes
    python scripts/token_depth.py                # random weights, which show the arithmetic and little else

Every way starts from the tower's own attention (`--ego2exo_init encoder`). Without --frames clips of the demo's world
are read. After each layer a token is compared with the patches that leave it: `cosine` to the average of the patches
of its own cell in time and space, `centred` the same after the mean of the clip's patches is taken off both, `spread`
|t - mean of the clip's tokens| / |t|, `norm` |t| / the mean |patch|. `a patch` is the one in the middle of the cell:
what a token would be at best.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llava_ego2exo.common.text import markdown_table  # noqa: E402
from llava_ego2exo.config import default_grid  # noqa: E402
from llava_ego2exo.demo.cameras import VIEWS, draw  # noqa: E402
from llava_ego2exo.demo.encoder import pretrain  # noqa: E402
from llava_ego2exo.demo.models import tiny_tower  # noqa: E402
from llava_ego2exo.demo.world import scenes  # noqa: E402
from llava_ego2exo.method.ego_tokens import EgoAdaptiveTokens  # noqa: E402
from llava_ego2exo.method.encoder_block import anchors, tower_layer  # noqa: E402

WAYS: dict[str, dict[str, Any]] = {
    "encoder": {"block": "encoder"},
    "encoder, no MLP": {"block": "encoder", "mlp": False},
    "cross_attention": {"block": "cross_attention"},
    "transformer": {"block": "transformer"},
}
SHOWN = (1, 4, 8, 16)  # layers, and the last


def main() -> int:
    """Print a table: each measure of each way after some layers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tower", help="folder or hub name of a CLIP or SigLIP model")
    parser.add_argument("--trained", action="store_true", help="train a small tower first")
    parser.add_argument("--layers", type=int, help="of the small tower (default: 12 trained, 24 random)")
    parser.add_argument("--steps", type=int, default=450, help="of its training (default: 450)")
    parser.add_argument("--frames", nargs="+", metavar="FILE", help="pictures, the frames of one clip in turn")
    parser.add_argument("--clips", type=int, default=16, help="of the demo, without --frames (default: 16)")
    parser.add_argument("--tokens", type=int, default=16, help="P (default: 16)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, args.tower or made(args, Path(folder)))
    depth = len(next(iter(found.values()))["cosine"])
    layers = sorted({n for n in (*SHOWN, depth) if n <= depth})
    rows = [
        [name, way, *(f"{measures[name][n - 1]:.2f}" for n in layers)]
        for name in next(iter(found.values())) for way, measures in found.items()
    ]  # fmt: skip
    print(markdown_table(["measure", "way", *(f"layer {n}" for n in layers)], rows))
    return 0


def made(args: argparse.Namespace, folder: Path) -> Path:
    """A small tower with its image processor."""
    if not args.trained:
        return tiny_tower(folder, width=256, layers=args.layers or 24, heads=4, size=112)

    def report(step: int, loss: float) -> None:
        print(f"tower: step {step}, loss {loss:.3f}", file=sys.stderr, flush=True)

    pretrain(list(scenes(1500, args.seed)), folder, args.seed, args.steps, report, layers=args.layers or 12)
    return folder


@torch.no_grad()
def measure(args: argparse.Namespace, name: str | Path) -> dict[str, dict[str, list[float]]]:
    """Way -> measure -> its mean after each layer up to the last but one, which LLaVA selects."""
    from transformers import AutoImageProcessor, AutoModel

    model = AutoModel.from_pretrained(name).eval()
    tower, config = model.vision_model, model.vision_model.config
    clips = read(args)
    pixels = AutoImageProcessor.from_pretrained(name)(sum(clips, []), return_tensors="pt")["pixel_values"]
    patches, lengths = (config.image_size // config.patch_size) ** 2, [len(clip) for clip in clips]
    states = tower(pixels, output_hidden_states=True).hidden_states
    states = [state[:, state.shape[1] - patches :] for state in states]
    depth, grid = config.num_hidden_layers - 1, default_grid(args.tokens)
    layers = [tower_layer(layer) for layer in tower.encoder.layers]
    tokens = {"a patch": [middles(state, lengths, grid) for state in states[1 : depth + 1]]}
    for way, options in WAYS.items():
        visits = options["block"] == "encoder"
        more = {"grid": grid, "time_bias": True} if visits else {}
        reader = EgoAdaptiveTokens(
            args.tokens, config.hidden_size, config.num_attention_heads, range(depth), **options, **more
        )
        reader.reset_parameters(torch.Generator().manual_seed(args.seed))
        reader.copy_attention(layers)
        kept = tokens[way] = []
        for block in reader.blocks:
            block.register_forward_hook(lambda module, given, out, kept=kept: kept.append(out))
        reader(states if visits else states[1:], lengths, tower=layers)
    return {
        way: compared(kept, [(state, lengths, grid) for state in states[1 : depth + 1]]) for way, kept in tokens.items()
    }


def read(args: argparse.Namespace) -> list[list[Any]]:
    """Clips as lists of pictures; those of the demo are none that its tower was trained on."""
    from PIL import Image

    if args.frames:
        return [[Image.open(file).convert("RGB") for file in args.frames]]
    unseen = scenes(args.clips, args.seed + 10**6)
    return [list(draw(scene, VIEWS[number % 2])) for number, scene in enumerate(unseen)]


def middles(states: Tensor, lengths: list[int], grid: tuple[int, int, int]) -> Tensor:
    """(V, cells, D): the patch in the middle of each cell."""
    side = round(states.shape[1] ** 0.5)
    found = []
    for video in states.split(lengths):
        sizes = (len(video), side, side)
        at = [((torch.arange(n) + 0.5) * size / n).long() for n, size in zip(grid, sizes, strict=True)]
        found.append(video.unflatten(1, (side, side))[torch.meshgrid(*at, indexing="ij")].flatten(0, 2))
    return torch.stack(found)


def compared(tokens: list[Tensor], layers: list[tuple[Tensor, list[int], tuple[int, int, int]]]) -> dict[str, list]:
    """Each measure after each layer."""
    found: dict[str, list[float]] = {"cosine": [], "centred": [], "spread": [], "norm": []}
    for t, (states, lengths, grid) in zip(tokens, layers, strict=True):
        cells = anchors(states, lengths, grid)
        videos = states.split(lengths)
        mean = torch.stack([video.mean((0, 1)) for video in videos])[:, None]
        size = torch.stack([video.norm(dim=-1).mean() for video in videos])[:, None]
        found["cosine"].append(F.cosine_similarity(t, cells, -1).mean().item())
        found["centred"].append(F.cosine_similarity(t - mean, cells - mean, -1).mean().item())
        found["spread"].append(((t - t.mean(1, keepdim=True)).norm(dim=-1) / t.norm(dim=-1)).mean().item())
        found["norm"].append((t.norm(dim=-1) / size).mean().item())
    return found


if __name__ == "__main__":
    sys.exit(main())
