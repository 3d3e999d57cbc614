"""A model with taps, as notebooks use it: prompts in, answers, logits and recordings out."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import _core
from ..base.progress import bar
from . import tokens
from .devices import require_device
from .tokens import Prompts


def at_positions(intervention: _core.Intervention, positions: str | int) -> _core.Intervention:
    """The intervention at the positions that `Model.steer` knows."""
    if isinstance(positions, str) and positions in ("all", "answer"):
        return intervention if positions == "all" else intervention.from_last(1)
    if isinstance(positions, int) and not isinstance(positions, bool) and positions >= 1:
        return intervention.from_last(positions)
    raise ValueError(
        f"steer: expected positions 'all', 'answer' or a number of last prompt tokens, got "
        f"{positions!r}; choose one"
    )


class Model:
    """A language model whose MLP neurons can be recorded and steered.

    Made by `cna.load`. Calls from several threads take turns; steering belongs to the thread that
    entered it.

    Attributes:
        n_layers, width: the grid of neurons; `width` is the MLP's hidden size.
        hidden_size: features of the residual stream.
        tokenizer: the Hugging Face tokenizer, or None for a bare TorchScript file.
        ranks: processes that share the weights (a tensor-parallel live model); 1 as a rule.
    """

    def __init__(self, core: _core.Model, tokenizer: Any = None, path: Path | None = None) -> None:
        self.core = core
        self.tokenizer = tokenizer
        self.path = path
        self.n_layers, self.width = core.shape
        self.hidden_size = core.hidden
        self.vocab_size = core.vocab
        self.model_id: str = core.id
        self.ranks = 1
        self.weights_mark = ""  # of a live model, see live._weights_mark
        self.universal_cache: dict[Any, Any] = {}
        self._local = threading.local()

    def __repr__(self) -> str:
        slow = "" if self.core.has_cache else ", one prompt at a time"
        return (
            f"Model({self.model_id!r}, {self.n_layers} layers x {self.width} neurons, "
            f"{self.dtype}, {self.device}{slow})"
        )

    @property
    def identity(self) -> list[Any]:
        """What the parts of a resumed run must share: the name, and all that is known of the weights."""
        file: list[int] = []
        if self.path is not None and self.path.is_file():  # a bare archive has no hash
            file = [self.path.stat().st_size, self.path.stat().st_mtime_ns]
        return [self.model_id, self.core.weights_hash, self.weights_mark, *file]

    @property
    def dtype(self) -> torch.dtype:
        names = {"Float": "float32", "BFloat16": "bfloat16", "Half": "float16", "Double": "float64"}
        return getattr(torch, names[self.core.dtype])

    @property
    def device(self) -> torch.device:
        return torch.device(self.core.device)

    def to(self, device: str | torch.device) -> Model:
        """Moves the model, its graph's device constants included. Returns itself."""
        device = torch.device(device)
        require_device("Model.to", device)
        self.core.to(str(device))
        return self

    # --- prompts -> tokens ------------------------------------------------------------------

    def uses_chat(self, chat: bool | None) -> bool:
        """Whether prompts go through the chat template: `chat`, or by default if there is one."""
        return tokens.uses_chat(self.tokenizer, chat)

    def tokenize(self, prompts: Prompts, chat: bool | None = None) -> list[list[int]]:
        """Token ids of each prompt as the model sees it, without padding and with one BOS.

        Args:
            prompts: user messages, or lists of token ids, which pass through unchanged.
            chat: None applies the tokenizer's chat template where it has one (with the generation
                prompt), False feeds raw text, True demands a template.
        Raises:
            ValueError: a single string, an empty list, an empty prompt or an unequal mix of types.
        """
        return tokens.tokenize(self.tokenizer, prompts, chat)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer, special tokens skipped."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    # --- steering ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def steer(
        self,
        what: Any,
        multiplier: float | Sequence[float] = 0.0,
        *,
        positions: str | int = "all",
    ) -> Iterator[Model]:
        """Steers everything inside the `with` block: a <- multiplier * a at the circuit's neurons.

        Args:
            what: a `Circuit`; a `cna.Intervention` (its arms, one per prompt, or one for all;
                `multiplier` is then not used); or a `cna.SteeringVector`, where `multiplier` is the
                coefficient c in x <- x + c * v.
            multiplier: 0 ablates, 1 is the model itself bit for bit, 2 amplifies, negative reverses.
                A sequence gives one strength per prompt. The paper's alpha is 1 - multiplier.
            positions: which tokens are steered. "all"; "answer": every answer token, and the last
                prompt token, which the first one is predicted from; a number n: the last n prompt
                tokens and the answer.
        Raises:
            ValueError: a circuit of another shape, a strength that is not finite, or other positions.
        """
        intervention, arms = self._as_intervention(what, multiplier)
        entry = at_positions(intervention, positions), arms
        stack: list[tuple[_core.Intervention, list[int] | None]] = self._stack()
        stack.append(entry)
        try:
            yield self
        finally:
            stack.remove(entry)

    def _stack(self) -> list[tuple[_core.Intervention, list[int] | None]]:
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        return self._local.stack

    def _as_intervention(
        self, what: Any, multiplier: float | Sequence[float]
    ) -> tuple[_core.Intervention, list[int] | None]:
        if isinstance(what, _core.Intervention):
            return what, list(range(what.arms)) if what.arms > 1 else None
        per_prompt = not isinstance(multiplier, (int, float))
        values = [float(m) for m in multiplier] if per_prompt else [float(multiplier)]  # type: ignore
        if not values or not all(math.isfinite(v) for v in values):
            raise ValueError(
                f"steer: expected finite strengths, got {multiplier}; pass a number, or one per prompt"
            )
        strengths = sorted(set(values))
        arms = [strengths.index(v) for v in values] if per_prompt else None
        if isinstance(what, _core.Circuit):
            if tuple(what.shape) != (self.n_layers, self.width):
                raise ValueError(
                    f"steer: expected a circuit of {self.n_layers} layers x {self.width} neurons, got "
                    f"one of {what.shape[0]} x {what.shape[1]}; discover it on this model"
                )
            return _core.Intervention.scale(what, strengths), arms
        if hasattr(what, "intervention"):
            return what.intervention(strengths), arms
        raise ValueError(
            f"steer: expected a Circuit, an Intervention or a SteeringVector, got "
            f"{type(what).__name__}; discover a circuit first"
        )

    def _steering(self, n_prompts: int) -> tuple[_core.Intervention, list[int]]:
        """All active steering as one intervention, and the arm of each prompt."""
        stack = self._stack()
        chosen: list[tuple[int, ...]] = []
        for _, arms in stack:
            if arms is not None and len(arms) != n_prompts:
                raise ValueError(
                    f"steer: expected one strength per prompt ({n_prompts}), got {len(arms)}; pass as "
                    "many strengths as prompts"
                )
        for i in range(n_prompts):
            chosen.append(tuple(0 if arms is None else arms[i] for _, arms in stack))
        combinations = sorted(set(chosen))
        total = _core.Intervention(len(combinations))
        for part, (intervention, _) in enumerate(stack):
            total = total.then(intervention.select([c[part] for c in combinations]))
        if len(combinations) == 1:
            return total, []
        return total, [combinations.index(c) for c in chosen]

    # --- what the model does ------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompts,
        max_new_tokens: int = 64,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        chat: bool | None = None,
        batch_size: int = 64,
        share_prefix: bool = True,
        progress: bool = True,
        return_tokens: bool = False,
    ) -> list[Any]:
        """Answers to prompts, in their order, without the prompt.

        Args:
            temperature: 0 is greedy; above, tokens are drawn, each prompt from its own stream of
                `seed`, so an answer does not depend on its neighbours in the batch.
            top_k, top_p: 0 and 1 keep all tokens.
            batch_size: prompts per batch.
            return_tokens: lists of token ids instead of text.
        Raises:
            ValueError: bad prompts or options; a prompt that with its answer exceeds the model.
        """
        ids = self.tokenize(prompts, chat)
        intervention, arms = self._steering(len(ids))
        with bar("generate", progress, "step") as update:
            answers = self.core.generate(
                ids,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                seed=seed,
                intervention=intervention,
                arms=arms,
                batch_rows=batch_size,
                share_prefix=share_prefix,
                progress=update,
            )
        if return_tokens or self.tokenizer is None:
            return answers
        return [self.decode(a) for a in answers]

    def logits(
        self,
        prompts: Prompts,
        *,
        chat: bool | None = None,
        batch_size: int = 64,
        share_prefix: bool = True,
        progress: bool = True,
    ) -> Tensor:
        """Logits behind the last token of each prompt, float32 [n_prompts, vocab], on the CPU."""
        ids = self.tokenize(prompts, chat)
        intervention, arms = self._steering(len(ids))
        with bar("logits", progress) as update:
            return self.core.logits(
                ids,
                intervention=intervention,
                arms=arms,
                batch_rows=batch_size,
                share_prefix=share_prefix,
                progress=update,
            )

    def record(
        self,
        prompts: Prompts,
        *,
        site: str = "neuron",
        chat: bool | None = None,
        batch_size: int = 64,
        share_prefix: bool = True,
        progress: bool = True,
    ) -> Tensor:
        """Last-token activations, float32 [n_prompts, n_layers, features]; see `cna.record`."""
        ids = self.tokenize(prompts, chat)
        intervention, arms = self._steering(len(ids))
        with bar("record", progress) as update:
            return self.core.record(
                ids,
                site,
                intervention=intervention,
                arms=arms,
                batch_rows=batch_size,
                share_prefix=share_prefix,
                progress=update,
            )
