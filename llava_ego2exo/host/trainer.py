"""The registered trainer `ego2exo`, and the registry at the place where LLaVA names its trainer."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from ..errors import Ego2ExoError
from ..registry import TRAINERS
from .classes import torch_dtype
from .distilling_trainer import distilling
from .leaving_out import leaving_out
from .projector import CHILD
from .repeats import counting_once
from .resuming import resuming
from .watching import watching


def trainer_name(args: Any, model: Any) -> str | None:
    """The registered trainer a run uses; None for LLaVA's own."""
    asked = getattr(args, "trainer_type", None)
    return asked or ("ego2exo" if getattr(model.config, "ego2exo", False) else None)


def cast_tower(args: Any, model: Any) -> None:
    """Bring the tower to `--vision_tower_dtype`: LLaVA has cast it to half precision, which is slow without a GPU.

    Raises:
        Ego2ExoError: no such type.
    """
    name = getattr(args, "vision_tower_dtype", None)
    if name is not None:
        model.get_model().get_vision_tower().to(torch_dtype(name, "--vision_tower_dtype"))


def wrap_trainer(original: type) -> type:
    """LLaVA's `LLaVATrainer` name in its train module; calling it builds the registered trainer where one is meant.

    It stays a class, so that code which subclasses or checks against that name goes on working.
    """

    class Lookup(type(original)):  # type: ignore[misc]
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            if cls is not found:
                return super().__call__(*args, **kwargs)
            cast_tower(kwargs.get("args"), kwargs.get("model"))
            name = trainer_name(kwargs.get("args"), kwargs.get("model"))
            chosen = original if name is None else TRAINERS.get(name)(original)
            return chosen(*args, **kwargs)

    found = Lookup(original.__name__, (original,), {"__wrapped__": original, "__module__": original.__module__})
    return found


def group_name(parameter: str) -> str:
    """The part of the model a parameter belongs to, by its name."""
    for key, name in (("lora_", "lora"), (f"mm_projector.{CHILD}", CHILD), ("mm_projector", "mm_projector")):
        if key in parameter:
            return name
    for name in ("vision_resampler", "vision_tower"):
        if name in parameter:
            return name
    return "language_model"


def build_trainer(llava_trainer: type) -> type:
    """The trainer `ego2exo`: LLaVA's that distils, with its optimizer groups split, checked and shown."""

    distilled = counting_once(distilling(llava_trainer))

    class Ego2ExoTrainer(leaving_out(watching(resuming(distilled)))):  # type: ignore[misc, valid-type]
        def create_optimizer(self) -> Any:
            super().create_optimizer()
            split_ego_groups(self.model, self.optimizer, getattr(self.model.config, "ego2exo_lr", None))
            check_groups(self.model, self.optimizer, lora=getattr(self.args, "lora_enable", False))
            if self.is_world_process_zero():
                print(trainable_table(self.model, self.optimizer), flush=True)  # noqa: T201
            return self.optimizer

    return Ego2ExoTrainer


TRAINERS.add("ego2exo", build_trainer)


def split_ego_groups(model: nn.Module, optimizer: Any, rate: float | None) -> None:
    """Give the ego tokens' parameters groups of their own, at `--ego2exo_lr` where it is set.

    Groups that LLaVA leaves empty go: DeepSpeed drops them too, and the scheduler would then count one rate too many.
    """
    ego = {id(p) for n, p in model.named_parameters() if group_name(n) == CHILD}
    groups = []
    for group in optimizer.param_groups:
        ours = [p for p in group["params"] if id(p) in ego]
        group["params"] = [p for p in group["params"] if id(p) not in ego]
        groups += [group] if group["params"] else []
        if ours:
            groups.append({**group, "params": ours, **({} if rate is None else {"lr": rate})})
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


def trainable_table(model: nn.Module, optimizer: Any) -> str:
    """Trainable parameters per part of the model and optimizer group."""
    names = {id(p): n for n, p in model.named_parameters()}
    rows: dict[tuple[str, float, float], list[int]] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            key = (group_name(names[id(p)]), group["lr"], group.get("weight_decay", 0.0))
            row = rows.setdefault(key, [0, 0])
            row[0] += 1
            row[1] += getattr(p, "ds_numel", p.numel())
    lines = [f"{'trainable':<18}{'tensors':>8}{'parameters':>14}{'lr':>10}{'decay':>8}"]
    for (name, rate, decay), (tensors, size) in sorted(rows.items()):
        lines.append(f"{name:<18}{tensors:>8}{size:>14,}{rate:>10.2g}{decay:>8.2g}")
    return "\n".join(lines)
