"""Flags that belong to a run, not to a model: distillation, bottleneck, and how clips are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite, log
from typing import Any

from .config import PREFIX, FlagGroup, flag_field, is_whole
from .errors import Ego2ExoError, refuse

DIVERGENCES = ("forward", "reverse", "jsd")  # the first is the default


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


@dataclass(frozen=True)
class DistillConfig(FlagGroup):
    """The distillation's flags, under their names without the prefix ``ego2exo_`` (paper section 3.1 is weight 0).

    They belong to a run, not to a model: a checkpoint's `config.json` keeps them for the record, nothing inherits them.

    Raises:
        Ego2ExoError: a value that no run can use.
    """

    kd_weight: float = flag_field(
        0.0, "Weight of the KL to the teacher's token distribution; 0: cross-entropy on the teacher's answers alone."
    )
    kd_temperature: float = flag_field(1.0, "Temperature of both distributions in the KL.")
    divergence: str = flag_field(
        DIVERGENCES[0],
        "In the KL's place: `forward`, KL(teacher || student); `reverse`, KL(student || teacher); or `jsd`, both to "
        "their mixture.",
    )
    jsd_beta: float = flag_field(0.5, "For `jsd`: the teacher's share of the mixture, and the weight of its KL.")
    teacher: str = flag_field(
        "self",
        "Who gives the distribution: `self` (the base, LoRA and ego tokens off), `cached`, or a checkpoint's path.",
    )
    teacher_base: str | None = flag_field(None, "Base checkpoint of a LoRA or projector teacher.")
    answers: str | None = flag_field(None, "For `cached`: the answers folder that `teach --top-k` wrote.")
    on_policy: float = flag_field(
        0.0,
        "Probability that a step is on-policy: the student answers from the exo clip, and the teacher scores that "
        "answer from the ego clip.",
    )
    sample_temperature: float = flag_field(
        1.0, "For `on_policy`: temperature at which the student's answers are sampled."
    )
    sample_tokens: int = flag_field(64, "For `on_policy`: maximum tokens of a sampled answer, its end token included.")
    privilege_cap: float | None = flag_field(
        None, "Maximum that one token's KL or divergence counts as (T² included, nats); above it, it has no gradient."
    )
    privilege_filter: float | None = flag_field(
        None,
        "Leave tokens out at which the teacher's own distributions on the ego and on the exo clip are further apart "
        "than this (the same KL or divergence, T² included).",
    )

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_teacher()
        self._check_on_policy()

    def _check_numbers(self) -> None:
        above = {"kd_temperature", "sample_temperature", "privilege_cap", "privilege_filter"}
        for name in ("kd_weight", *sorted(above)):
            value, least = getattr(self, name), "above 0" if name in above else "0 or more"
            if value is None and name.startswith("privilege_"):
                continue
            if not _is_number(value) or value < 0 or (value == 0 and name in above):
                what = "no bound" if name.startswith("privilege_") else "the default"
                raise Ego2ExoError(f"--{PREFIX}{name} {value}", f"a number {least}", f"leave it out for {what}")
        beta = self.jsd_beta
        refuse(
            (self.divergence not in DIVERGENCES, f"--{PREFIX}divergence {self.divergence}", ", ".join(DIVERGENCES),
             "leave it out for forward"),
            (not _is_number(beta) or not 0 < beta < 1, f"--{PREFIX}jsd_beta {beta}", "a number above 0 and below 1",
             "at its ends jsd has no gradient: use --ego2exo_divergence forward or reverse"),
            (beta != 0.5 and self.divergence != "jsd", f"--{PREFIX}jsd_beta {beta} with --{PREFIX}divergence "
             f"{self.divergence}", "it with jsd", "leave it out, or choose jsd"),
            (self.divergence != "forward" and self.teacher == "cached",
             f"--{PREFIX}divergence {self.divergence} with --{PREFIX}teacher cached, of which k tokens are known",
             "forward; the others need the teacher's whole vocabulary", "take another teacher, or forward"),
        )  # fmt: skip

    def _check_teacher(self) -> None:
        if not isinstance(self.teacher, str) or not self.teacher.strip():
            raise Ego2ExoError(f"--{PREFIX}teacher {self.teacher!r}", "self, cached, or a checkpoint's path")
        teacher, answers, base = (f"--{PREFIX}{name}" for name in ("teacher", "answers", "teacher_base"))
        refuse(
            (self.kind == "cached" and not self.answers, f"{teacher} cached without {answers}",
             "the folder that `llava-ego2exo teach --top-k` wrote", f"pass {answers}, or another {teacher}"),
            (self.kind != "cached" and self.answers, f"{answers} {self.answers} with {teacher} {self.teacher}",
             f"{answers} with {teacher} cached", f"pass {teacher} cached, or leave {answers} out"),
            (self.kind != "path" and self.teacher_base, f"{base} {self.teacher_base} with {teacher} {self.teacher}",
             "a base for a checkpoint that holds LoRA or a projector alone", f"leave {base} out"),
        )  # fmt: skip

    def _check_on_policy(self) -> None:
        flag, cached = f"--{PREFIX}on_policy", f"--{PREFIX}teacher cached, which holds no model"
        sampling = [
            name for name in ("sample_temperature", "sample_tokens") if getattr(self, name) != getattr(type(self), name)
        ]
        refuse(
            (not _is_number(self.on_policy) or not 0 <= self.on_policy <= 1, f"{flag} {self.on_policy}",
             "a probability from 0 to 1", "give the share of steps that are to be on-policy"),
            (not is_whole(self.sample_tokens, 1), f"--{PREFIX}sample_tokens {self.sample_tokens}",
             "a whole number from 1", "leave it out for the default"),
            (self.on_policy and self.kind == "cached", f"{flag} {self.on_policy} with {cached} to score new answers",
             "it with self or a checkpoint's path", f"take another teacher, or leave {flag} out"),
            (self.privilege_filter is not None and self.kind == "cached", f"--{PREFIX}privilege_filter "
             f"{self.privilege_filter} with {cached} to ask about the exo clip", "it with self or a checkpoint's path",
             "take another teacher, or leave it out"),
            (sampling and not self.on_policy, f"{', '.join(f'--{PREFIX}{name}' for name in sampling)} with {flag} 0",
             "a run that samples", f"give {flag} a share of the steps, or leave the others out"),
        )  # fmt: skip
        self._check_bounds()

    def _check_bounds(self) -> None:
        """A jsd is never above T² times the entropy of its two weights."""
        parts = (self.jsd_beta, 1 - self.jsd_beta)
        most = -(self.kd_temperature**2) * sum(part * log(part) for part in parts)
        for name in ("privilege_cap", "privilege_filter"):
            value = getattr(self, name)
            refuse(
                (self.divergence == "jsd" and value is not None and value >= most, f"--{PREFIX}{name} {value} with "
                 f"--{PREFIX}divergence jsd, which is at most {most:.3f} a token here", "a bound that can be reached",
                 "give a smaller one, or leave it out for no bound"),
            )  # fmt: skip

    @property
    def on(self) -> bool:
        """Whether the run has a KL."""
        return self.kd_weight > 0

    @property
    def kind(self) -> str:
        """`self`, `cached` or `path`."""
        return self.teacher if self.teacher in ("self", "cached") else "path"

    def differences(self, other: DistillConfig) -> list[str]:
        """Flags that change the loss, as lines ``name: own value / other value``; folders may move."""
        places = ("teacher", "teacher_base", "answers")
        names = {name: name for name in asdict(self) if name not in places} | {"teacher": "kind"}
        pairs = {flag: (getattr(self, name), getattr(other, name)) for flag, name in names.items()}
        return [f"{PREFIX}{flag}: {own} / {others}" for flag, (own, others) in pairs.items() if own != others]


@dataclass(frozen=True)
class BottleneckConfig(FlagGroup):
    """A first stage of training on the ego tokens alone. It belongs to a run: nothing inherits it.

    Raises:
        Ego2ExoError: a value that no run can use.
    """

    bottleneck: float = flag_field(
        0.0, "Share of the steps, at the start, in which the ordinary visual tokens are left out; then both are passed."
    )

    def __post_init__(self) -> None:
        share = self.bottleneck
        if not _is_number(share) or not 0 <= share < 1:
            raise Ego2ExoError(
                f"--{PREFIX}bottleneck {share}",
                "a number from 0, and below 1",
                f"to train without the ordinary visual tokens to the end, give --{PREFIX}visual_tokens False",
            )

    def steps(self, total: int) -> int:
        """Optimizer steps of the first stage, of `total`: the nearest number, one at least and never all."""
        return min(max(round(self.bottleneck * total), 1), total - 1) if self.bottleneck else 0


@dataclass(frozen=True)
class ReadingConfig(FlagGroup):
    """How a run reads its clips; none of the flags changes what is learned from a readable sample.

    Raises:
        Ego2ExoError: a value that no run can use.
    """

    frame_cache: str | None = flag_field(
        None, "Folder of cached decoded frames, shared with `teach` and `eval`; unset: no cache."
    )
    frame_cache_gb: float = flag_field(
        20.0, "Its maximum size in gigabytes (10^9 bytes); the least recently used clips are removed first."
    )
    max_bad: int = flag_field(0, "Maximum unreadable samples (exo and ego view together) to skip before stopping.")
    max_json_mb: int = flag_field(512, "Largest training file that is read, in MiB.")

    def __post_init__(self) -> None:
        size = self.frame_cache_gb
        for name, fits, allowed in (
            ("frame_cache_gb", _is_number(size) and size > 0, "a number above 0"),
            ("max_bad", is_whole(self.max_bad, 0), "a whole number from 0"),
            ("max_json_mb", is_whole(self.max_json_mb, 1), "a whole number from 1"),
            ("frame_cache", self.frame_cache is None or str(self.frame_cache).strip(), "a folder"),
        ):
            if not fits:
                given = f"--{PREFIX}{name} {getattr(self, name)!r}"
                raise Ego2ExoError(given, allowed, "leave it out for the default")
