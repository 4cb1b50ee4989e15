"""Name -> builder tables for what LLaVA chooses by if-chains: projector types and trainers.

A third party adds an entry in one line, before or after :func:`llava_ego2exo.register`::

    llava_ego2exo.register_projector("my_mlp", lambda config, **kw: MyMLP(config.mm_hidden_size, config.hidden_size))
    llava_ego2exo.register_trainer("my_trainer", lambda llava_trainer: type("MyTrainer", (llava_trainer,), {...}))

LLaVA then finds it by ``--mm_projector_type my_mlp`` and ``--trainer_type my_trainer``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .errors import Ego2ExoError


class Registry:
    """A table of builders by name, in order of registration; `kind` and `flag` name its entries in messages."""

    def __init__(self, kind: str, flag: str) -> None:
        self.kind, self.flag = kind, flag
        self._builders: dict[str, Callable[..., Any]] = {}

    def add(self, name: str, builder: Callable[..., Any]) -> None:
        """Add one entry; one that is there already changes nothing.

        Raises:
            Ego2ExoError: the name is empty or taken by another builder, or the builder is not callable.
        """
        if not isinstance(name, str) or not name or name != name.strip() or not callable(builder):
            raise Ego2ExoError(f"{self.kind} {name!r}: {builder!r}", "a name without outer blanks, and a callable")
        if self._builders.setdefault(name, builder) is not builder:
            raise Ego2ExoError(
                f"{self.kind} {name!r} is registered already, by {self._builders[name]!r}",
                "one builder a name",
                f"choose another name, or remove the old one with .remove({name!r})",
            )

    def get(self, name: str) -> Callable[..., Any]:
        """The builder of `name`.

        Raises:
            Ego2ExoError: nothing has that name.
        """
        if name not in self._builders:
            raise Ego2ExoError(f"{self.flag} {name!r} is not a registered {self.kind}", ", ".join(self) or "none yet")
        return self._builders[name]

    def remove(self, name: str) -> None:
        """Remove an entry; errors as of :meth:`get`."""
        self.get(name)
        del self._builders[name]

    def __contains__(self, name: object) -> bool:
        return name in self._builders

    def __iter__(self) -> Iterator[str]:
        return iter(self._builders)


PROJECTORS = Registry("projector type", "--mm_projector_type")
TRAINERS = Registry("trainer", "--trainer_type")


def register_projector(name: str, builder: Callable[..., Any]) -> None:
    """Make ``--mm_projector_type name`` (and ``ego2exo_name``) known to LLaVA.

    `builder` is called as LLaVA calls its own, ``builder(config, **kwargs)``, and returns an `nn.Module` that maps
    (..., config.mm_hidden_size) to (..., config.hidden_size).
    """
    PROJECTORS.add(name, builder)


def register_trainer(name: str, builder: Callable[..., Any]) -> None:
    """Make ``--trainer_type name`` known to LLaVA; `builder` gets its `LLaVATrainer` class, returns the one to use."""
    TRAINERS.add(name, builder)
