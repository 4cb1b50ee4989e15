"""The optimizer's parameter groups: split for the ego tokens, checked, and shown as a table."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from ...common.text import aligned_table
from ...errors import Ego2ExoError
from ..model.projector import CHILD


def group_name(parameter: str) -> str:
    """The part of the model a parameter belongs to, by its name."""
    for key, name in (("lora_", "lora"), (f"mm_projector.{CHILD}", CHILD), ("mm_projector", "mm_projector")):
        if key in parameter:
            return name
    for name in ("vision_resampler", "vision_tower"):
        if name in parameter:
            return name
    return "language_model"


def split_ego_groups(model: nn.Module, optimizer: Any, rate: float | None) -> None:
    """Give the ego tokens' parameters groups of their own, at `--ego2exo_lr` where it is set.

    Groups that LLaVA leaves empty go: DeepSpeed drops them too, and the scheduler would then count one rate too many.
    """
    ego = {id(p) for n, p in model.named_parameters() if group_name(n) == CHILD}
    groups = []
    for group in optimizer.param_groups:
        own = [p for p in group["params"] if id(p) in ego]
        group["params"] = [p for p in group["params"] if id(p) not in ego]
        groups += [group] if group["params"] else []
        if own:
            groups.append({**group, "params": own, **({} if rate is None else {"lr": rate})})
    optimizer.param_groups[:] = groups


def check_groups(model: nn.Module, optimizer: Any, lora: bool) -> None:
    """Every trainable parameter is in exactly one group, frozen ones in none.

    Raises:
        Ego2ExoError: naming the parameters; also where LoRA is on and weights of the language model itself train.
    """
    counts = Counter(id(p) for group in optimizer.param_groups for p in group["params"])
    wrong = [n for n, p in model.named_parameters() if counts[id(p)] != int(p.requires_grad)]
    if wrong:
        raise Ego2ExoError(f"not in exactly one optimizer group: {', '.join(wrong[:5])}", "", "report this as a bug")
    base = [n for n, p in model.named_parameters() if p.requires_grad and group_name(n) == "language_model"]
    if lora and base:
        raise Ego2ExoError(
            f"--lora_enable True, and {len(base)} weights of the language model itself would train: {base[0]}, ...",
            "LoRA weights alone",
            "leave --unfreeze_language_model and modules_to_save out",
        )


def trainable_table(model: nn.Module, optimizer: Any) -> list[str]:
    """Lines of a table: trainable parameters per part of the model and optimizer group."""
    names = {id(p): n for n, p in model.named_parameters()}
    sizes: dict[tuple[str, float, float], list[int]] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            key = (group_name(names[id(p)]), group["lr"], group.get("weight_decay", 0.0))
            sizes.setdefault(key, []).append(getattr(p, "ds_numel", p.numel()))
    rows = [
        (name, len(counts), f"{sum(counts):,}", f"{rate:.2g}", f"{decay:.2g}")
        for (name, rate, decay), counts in sorted(sizes.items())
    ]
    return aligned_table(("trainable", "tensors", "parameters", "lr", "decay"), rows).splitlines()
