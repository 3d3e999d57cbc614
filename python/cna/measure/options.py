"""The settings of a sweep, with their defaults and checks."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from ..base.checks import whole_number

BASELINES = (
    "random",
    "random-kl",
    "caa",
    "caa-answer",
    "caa-mlp",
    "no-filter",
    "contribution",
    "delta",
    "prompt",
    "logit-bias",
)


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """What a sweep runs: arms, prompts, answers and scores. Sequences are kept as tuples.

    Attributes:
        multipliers: strengths m of the circuit, a number without unit: 0 ablates, 1 is the model
            itself and is always among them, negative ones reverse.
        baselines: "random" (as many neurons per layer, several draws), "random-kl" (the same
            draws, each scaled until it disturbs benign prompts as much as the circuit), "caa"
            (residual stream, layer x coefficient, at every token), "caa-answer" (the same from the
            end of the instruction on, as Rimsky et al.), "caa-mlp" (the authors' variant),
            "no-filter" (top neurons with the universal ones left in), "contribution" and "delta" (as
            many neurons by that ranking, see `cna.discover`), "prompt" (an instruction that asks for
            the effect) and "logit-bias" (a constant on the logits).
        caa_layers: layers of "caa", from 0; four between a third and five sixths of the model's
            depth by default.
        caa_coefficients: c of "caa" and "caa-mlp", a multiple of the vector, which is in the units
            of the activations; negative ones remove the behaviour.
        logit_biases: b of "logit-bias", a multiple of the tokens' log odds; negative ones remove.
        prompt_baseline: the instruction of "prompt"; the task's own by default.
        random_seeds: one draw of "random" and of "random-kl" each.
        random_prompts: evaluation prompts that a draw answers, and benign prompts that its KL is
            measured on, from the first; all by default.
        max_new_tokens: of an answer.
        max_thought_tokens: of a thinking model's thoughts before it; longer ones count as `unended`.
            By default thoughts and answer share `max_new_tokens`.
        batch_size: prompts in one forward pass.
        kl_prompts: evaluation prompts for KL(unsteered || steered) along unsteered answers; 0
            leaves it out. Benign prompts are all used.
        perplexity: whether the fixed text's perplexity is measured.
        relevance_prompts: evaluation prompts whose answers' perplexity and relevance are measured,
            from the first; 0 leaves both out, all by default.
        quiz_questions: multiple-choice questions, drawn evenly over their subjects; 0 leaves
            accuracy out.
        quiz_by: "letter" or "text", see `cna.metrics.quiz_accuracy`; by default "letter" for a quiz
            that is passed, as MMLU is run, and "text" for the built-in one.
        quiz_seed: of the draw.
        max_prompts: evaluation and benign prompts, each; all by default.
        layers: whether neurons per layer by |delta| and by contribution are kept with the run; two
            passes over the task's discovery prompts.
    Raises:
        ValueError: an unknown baseline, numbers that are not finite, or counts that cannot be.
    """

    multipliers: Sequence[float] = (-1.0, 0.0, 0.5, 1.0, 2.0)
    baselines: Sequence[str] = ("random", "caa")
    caa_layers: Sequence[int] | None = None
    caa_coefficients: Sequence[float] = (-1.0, -0.5, -0.25)
    logit_biases: Sequence[float] = (-1.0, -0.5, -0.25)
    prompt_baseline: str | None = None
    random_seeds: Sequence[int] = tuple(range(20))
    random_prompts: int | None = None
    max_new_tokens: int = 40
    max_thought_tokens: int | None = None
    batch_size: int = 64
    kl_prompts: int = 16
    perplexity: bool = True
    relevance_prompts: int | None = None
    quiz_questions: int = 60
    quiz_by: str | None = None
    quiz_seed: int = 0
    max_prompts: int | None = None
    layers: bool = True

    def __post_init__(self) -> None:
        for field in ("multipliers", "caa_coefficients", "logit_biases"):
            self._keep(field, _finite(getattr(self, field), field))
        self._keep("random_seeds", _whole(self.random_seeds, "random_seeds"))
        if self.caa_layers is not None:
            self._keep("caa_layers", _whole(self.caa_layers, "caa_layers"))
        names = (self.baselines,) if isinstance(self.baselines, str) else tuple(self.baselines)
        for name in names:
            if name not in BASELINES:
                raise ValueError(
                    f"sweep: expected baselines among {list(BASELINES)}, got {name!r}; choose these"
                )
        self._keep("baselines", names)
        for field in ("max_new_tokens", "batch_size"):
            self._keep(field, whole_number(getattr(self, field), 1, field, "sweep"))
        if self.quiz_by not in (None, "text", "letter"):
            raise ValueError(
                f"sweep: expected quiz_by='text' or 'letter', got {self.quiz_by!r}; choose one"
            )
        for field in ("kl_prompts", "quiz_questions", "quiz_seed"):
            self._keep(field, whole_number(getattr(self, field), 0, field, "sweep"))
        counts = {"max_prompts": 1, "random_prompts": 1, "relevance_prompts": 0}
        for field, least in (counts | {"max_thought_tokens": 1}).items():
            if getattr(self, field) is not None:
                self._keep(field, whole_number(getattr(self, field), least, field, "sweep"))

    def _keep(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)  # frozen: its own way in

    @property
    def strengths(self) -> list[float]:
        """The multipliers in ascending order, each once, with 1 among them."""
        return sorted({1.0, *self.multipliers})

    @property
    def most_tokens(self) -> int:
        """Tokens that are generated at most: thoughts and answer."""
        return self.max_new_tokens + (self.max_thought_tokens or 0)

    @property
    def main_multiplier(self) -> float | None:
        """The circuit's strength that controls are drawn at: 0, else the one nearest to it."""
        steered = [m for m in self.strengths if m != 1.0]
        return min(steered, key=abs) if steered else None

    def as_json(self) -> dict[str, Any]:
        """Every setting as it was used, for a run's files."""
        values = dataclasses.asdict(self) | {"multipliers": self.strengths}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def sweep_options(
    options: SweepOptions | None,
    multipliers: Sequence[float] | None,
    baselines: Sequence[str] | None,
    settings: dict[str, Any],
) -> SweepOptions:
    """What the arguments of a sweep come to: `options`, or the defaults, and what is given beside.

    Raises TypeError for a setting that there is not.
    """
    fields = [field.name for field in dataclasses.fields(SweepOptions)]
    given = {"multipliers": multipliers, "baselines": baselines}
    settings = {k: v for k, v in given.items() if v is not None} | settings
    for name in settings:
        if name not in fields:
            raise TypeError(f"sweep: expected settings among {fields}, got {name!r}; choose these")
    return dataclasses.replace(options or SweepOptions(), **settings)


def _finite(values: Iterable[float], name: str) -> tuple[float, ...]:
    numbers: tuple[float, ...] = (math.nan,)
    if not isinstance(values, str):
        with contextlib.suppress(TypeError, ValueError):
            numbers = tuple(float(v) for v in values)
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"sweep: expected finite {name}, got {values!r}; pass a list of numbers")
    return numbers


def _whole(values: Iterable[int], name: str) -> tuple[int, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"sweep: expected {name} in a list, got {values!r}; pass whole numbers")
    return tuple(whole_number(v, 0, name, "sweep") for v in values)
