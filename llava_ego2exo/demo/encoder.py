"""The demo's vision encoder: a small CLIP tower, pretrained on single frames and the words that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .cameras import FRAMES, VIEWS, draw
from .world import HANDS, OBJECTS, REGIONS, Scene, scenes, words

WIDTH, LAYERS, HEADS = 64, 4, 4
INPUT, PATCH, SELECTED = 48, 8, -2  # pixels: a frame is shrunk for the tower, which halves its cost


class WordReader(nn.Module):
    """One attention query a word over the tower's patches, and how likely the word belongs to the frame.

    A query a word, as a single one for all words learns a held object far more slowly.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(count, WIDTH) * WIDTH**-0.5)
        self.weight = nn.Parameter(torch.randn(count, WIDTH) * WIDTH**-0.5)
        self.bias = nn.Parameter(torch.full((count,), -1.0))

    def forward(self, patches: Tensor) -> Tensor:
        """(frames, patches, `WIDTH`) to logits (frames, words)."""
        attention = (patches @ self.queries.T).softmax(1)  # (frames, patches, words)
        read = attention.transpose(1, 2) @ patches
        return (read * self.weight).sum(-1) + self.bias


def _cells(pixels: Tensor) -> Tensor:
    """Mean colour of each patch's quarters, and its place: (N, 3, `INPUT`, `INPUT`) to (N, patches, 14)."""
    quarters = functional.avg_pool2d(pixels, PATCH // 2)
    along = torch.linspace(-1, 1, INPUT // PATCH)
    places = torch.cartesian_prod(along, along).expand(len(pixels), -1, -1)
    return torch.cat([functional.unfold(quarters, 2, stride=2).transpose(1, 2), places], -1)


def _material(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """One frame of each event and view (N, 3, `INPUT`, `INPUT`), and which words belong to it (N, words)."""
    frames, names = [], []
    for scene in scenes:
        for view in VIEWS:
            clip = draw(scene, view)
            for index in range(len(scene.events)):
                frames.append(clip[index * FRAMES // len(scene.events)])
                names.append(words(scene, view, index))
    known = sorted(set().union(*names))
    pixels = processor().preprocess(frames, return_tensors="pt")["pixel_values"]
    return pixels, torch.tensor([[float(word in named) for word in known] for named in names])


def pretrain(
    scenes: Sequence[Scene], folder: Path, seed: int, steps: int, report: Callable[[int, float], None],
    batch: int = 64, layers: int = LAYERS,
) -> None:  # fmt: skip
    """Train a tower from nothing and save it with its image processor.

    Args:
        scenes: none of those held out for tests.
        folder: where to.
        seed: of weights and batches.
        steps: optimizer steps.
        report: called with step and loss.
        batch: frames a step.
        layers: of the tower.
    """
    pixels, targets = _material(scenes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower, reader, painter = new_tower(layers), WordReader(targets.shape[1]), nn.Linear(WIDTH, 14)
        _sine_positions(tower)
        parameters = [*tower.parameters(), *reader.parameters(), *painter.parameters()]

        def step() -> Tensor:
            chosen = torch.randint(len(pixels), (batch,))
            states = [state[:, 1:] for state in tower(pixels[chosen], output_hidden_states=True).hidden_states]
            logits = reader(functional.layer_norm(states[-1], (WIDTH,)))
            named = functional.binary_cross_entropy_with_logits(logits, targets[chosen], reduction="none").sum(1).mean()
            # Words alone would let patches forget what no word is about, and where they are. Large towers keep it.
            return named + functional.mse_loss(painter(states[SELECTED]), _cells(pixels[chosen]))

        fit(parameters, step, steps, 4e-3, 0.3, report, weight_decay=0.01)
    tower.save_pretrained(folder)
    processor().save_pretrained(folder)


def probe(tower: Path, view: str, seed: int, count: int = 1000, tests: int = 200, steps: int = 400) -> dict[str, float]:
    """What a frozen tower's patches, as LLaVA takes them, show of an event to a reader of their own.

    Trained and tested on frames drawn for it: one attention query an option, the patches with their places.

    Returns:
        Attribute of an event -> percent right of `tests` frames.
    """
    from transformers import CLIPVisionModel

    shown = list(scenes(count + tests, seed))
    frames = processor().preprocess([draw(scene, view)[0] for scene in shown], return_tensors="pt")["pixel_values"]
    model = CLIPVisionModel.from_pretrained(tower).eval()
    with torch.no_grad():
        states = [model(part, output_hidden_states=True).hidden_states[SELECTED][:, 1:] for part in frames.split(256)]
    patches = functional.layer_norm(torch.cat(states), (WIDTH,))
    found = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, options in (("hand", HANDS), ("object", OBJECTS), ("region", REGIONS)):
            truth = torch.tensor([options.index(getattr(scene.events[0], name)) for scene in shown])
            reader, places = WordReader(len(options)), nn.Parameter(torch.zeros(patches.shape[1:]))

            def step(reader: WordReader = reader, places: Tensor = places, truth: Tensor = truth) -> Tensor:
                chosen = torch.randint(count, (128,))
                return functional.cross_entropy(reader(patches[chosen] + places), truth[chosen])

            fit([*reader.parameters(), places], step, steps, 1e-2, 0.3, lambda *_: None, weight_decay=0.01)
            with torch.no_grad():
                right = reader(patches[count:] + places).argmax(1) == truth[count:]
            found[name] = 100.0 * right.float().mean().item()
    return found


def new_tower(layers: int = LAYERS) -> Any:
    """A tower with random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=layers, num_attention_heads=HEADS,
        image_size=INPUT, patch_size=PATCH, projection_dim=WIDTH, hidden_act="gelu", initializer_factor=1.0,
    )  # fmt: skip
    return CLIPVisionModel(config)


def fit(
    parameters: Sequence[nn.Parameter], loss: Callable[[], Tensor], steps: int, rate: float, warmup: float,
    report: Callable[[int, float], None], **options: Any,
) -> None:  # fmt: skip
    """Train with AdamW (which takes `options`), a one-cycle schedule and clipped gradients.

    `loss` gives that of the next batch; `rate` is the highest learning rate, `warmup` a share of the steps.
    """
    optimizer = torch.optim.AdamW(parameters, lr=rate, **options)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=warmup)
    for step in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        report(step, value.item())


@torch.no_grad()
def _sine_positions(tower: nn.Module) -> None:
    """Start positions where neighbours are alike: learning the picture's layout from nothing takes too long."""
    from ..method.position_embedding import position_embedding

    table = tower.vision_model.embeddings.position_embedding.weight  # class token first
    table[1:] = 0.5 * position_embedding(len(table) - 1, WIDTH, table.device)


def processor() -> Any:
    """The image processor of the demo's towers."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(
        size={"shortest_edge": INPUT}, crop_size={"height": INPUT, "width": INPUT},
        image_mean=[0.5] * 3, image_std=[0.25] * 3,
    )  # fmt: skip
