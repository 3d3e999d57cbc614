"""Baselines that change no activation of the circuit: an instruction, and a bias on the logits."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .. import _core
from ..hosts.model import Model
from ..prompts.tasks import Task
from .arm import Arm

_LEAST = 1e-4  # probability: the log odds of tokens below it are taken as those of a token at it


def prompt_arms(task: Task, instruction: str | None) -> list[Arm]:
    """The instruction, put before each prompt in the user's message with an empty line between.

    Raises ValueError where neither the task nor the caller names one.
    """
    text = (instruction or task.prompt_baseline).strip()
    if not text:
        raise ValueError(
            f"sweep: expected an instruction that asks for the effect, got none in {task.name!r}; "
            "pass prompt_baseline='...', or leave out the baseline 'prompt'"
        )
    return [Arm("prompt", None, 1.0, _core.Intervention(1), kind="prompt", prefix=text)]


def first_token_odds(
    model: Model, task: Task, *, batch_size: int = 64, progress: bool = True
) -> Tensor:
    """Log odds of each token at the answer's first place, float32 [vocab].

    log p+ - log p-, with p the mean next-token probability behind the positive and the negative
    discovery prompts, at least 1e-4 in both.
    """
    sides = []
    for prompts in (task.positive, task.negative):
        logits = model.logits(prompts, chat=task.chat, batch_size=batch_size, progress=progress)
        sides.append(logits.double().softmax(-1).mean(0).clamp_min(_LEAST).log())
    return (sides[0] - sides[1]).to(torch.float32)


def logit_bias_arms(
    model: Model,
    task: Task,
    coefficients: Iterable[float],
    *,
    batch_size: int = 64,
    progress: bool = True,
) -> list[Arm]:
    """logits <- logits + b * log odds, at every place of the answer; one arm per coefficient b."""
    odds = first_token_odds(model, task, batch_size=batch_size, progress=progress)
    return [
        Arm("logit-bias", None, b, _core.Intervention.bias_logits(odds, [b]), kind="logit_bias")
        for b in coefficients
    ]
