"""A model with taps, as notebooks use it: prompts in, answers, logits and recordings out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .. import _core
from ..base.progress import bar
from . import active, generation_settings
from .chat import Chat
from .devices import dtype_named, require_device
from .layouts import notes_of
from .prompted import Prompted
from .stream import pieces
from .tokens import Prompts
from .weights import file_mark, require_own_circuit


class Model(Prompted):
    """A language model whose MLP neurons can be recorded and steered.

    Made by `cna.load`. Calls from several threads take turns; steering belongs to the thread or
    asyncio task that entered it.

    Attributes:
        n_layers, width, widths, n_neurons: blocks; neurons of the widest, of each (0 without), of all.
        experts: (count, width) of each layer's experts; empty for a dense model.
        hidden_size: features of the residual stream.
        tokenizer, system, template_kwargs: how prompts become tokens, see `Prompted`.
        generation_settings: what the checkpoint says of sampling; empty if nothing, or not known.
        ranks: processes that share the weights (a tensor-parallel live model); 1 as a rule.
        pattern, precision: how an export was opened, see `cna.load`.
    """

    def __init__(
        self,
        core: _core.Model,
        tokenizer: Any = None,
        path: Path | None = None,
        *,
        system: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(tokenizer, system, template_kwargs)
        self.core = core
        self.path = path
        self.generation_settings = dict(generation or {})
        self.n_layers, self.width = core.shape
        self.widths, self.n_neurons, self.experts = core.widths, core.n_neurons, core.experts
        self.hidden_size = core.hidden
        self.vocab_size = core.vocab
        self.model_id: str = core.id
        self.ranks, self.weights_mark = 1, ""  # of a live model, see live.live_module
        self.pattern, self.precision = "", "float32"
        self.universal_cache: dict[Any, Any] = {}
        self._owner = object()  # of the steering blocks

    def __repr__(self) -> str:
        return f"Model({self.model_id!r}, {', '.join(notes_of(self))})"

    @property
    def generation_settings_left_out(self) -> dict[str, Any]:
        """What the checkpoint says of sampling and `generate` does not follow by default.

        `generate(..., settings="checkpoint")` follows temperature, top_k, top_p and max_new_tokens.
        """
        return generation_settings.left_out(self.generation_settings)

    @property
    def identity(self) -> list[Any]:
        """What the parts of a resumed run must share: the name, and all that is known of the weights."""
        of_file = file_mark(self.path)
        return [self.model_id, self.core.weights_hash, self.weights_mark, *of_file]

    @property
    def dtype(self) -> torch.dtype:
        return dtype_named(self.core.dtype)

    @property
    def device(self) -> torch.device:
        return torch.device(self.core.device)

    def to(self, device: str | torch.device) -> Model:
        """Moves the model, its graph's device constants included. Returns itself."""
        device = torch.device(device)
        require_device("Model.to", device)
        self.core.to(str(device))
        return self

    # --- steering ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def steer(
        self,
        what: Any,
        multiplier: float | Sequence[float] = 0.0,
        *,
        positions: str | int = "all",
        gate: _core.Gate | None = None,
    ) -> Iterator[Model]:
        """Steers everything inside the `with` block: a <- multiplier * a at the circuit's neurons.

        Args:
            what: a `Circuit`; a `cna.Operation`, which says what else a strength does to a circuit; a
                `cna.Intervention` (its arms, one per prompt, or one for all;
                `multiplier` is then not used); or a `cna.SteeringVector`, where `multiplier` is the
                coefficient c in x <- x + c * v.
            multiplier: 0 ablates, 1 is the model itself bit for bit, 2 amplifies, negative reverses.
                A sequence gives one strength per prompt. The paper's alpha is 1 - multiplier.
            positions: which tokens are steered. "all"; "answer": every answer token, and the last
                prompt token, which the first one is predicted from; a number n: the last n prompt
                tokens and the answer.
            gate: from `cna.fit_gate`; prompts that it does not pass are answered as if there were no
                block. For `generate`, `logits` and `record`, which look at each prompt once more.
        Raises:
            ValueError: a circuit of another shape, a strength that is not finite, or other positions.
        """
        found = self._as_intervention(what, multiplier)
        steered = active.at_positions(found.intervention, positions)
        entry = active.Entry(steered, found.arms, gate)
        with active.entered(self._owner, entry):
            yield self

    def _stack(self) -> list[active.Entry]:
        return active.entries(self._owner)

    def _as_intervention(self, what: Any, multiplier: float | Sequence[float]) -> active.Entry:
        def check(circuit: _core.Circuit) -> None:
            require_own_circuit(circuit, self.widths, self.core.weights_hash, self.dtype)

        return active.entry_of(what, multiplier, check)

    def _steering(self, n_prompts: int, ids: list[list[int]] | None = None) -> active.Combined:
        """All active steering as one intervention, and the arm of each prompt; `ids` for gates."""
        blocks = active.without_gates(self._stack(), n_prompts, self.core, ids)
        return active.combined(blocks, n_prompts)

    # --- what the model does ------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompts,
        max_new_tokens: int = 64,
        *,
        settings: Literal["checkpoint"] | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        chat: bool | None = None,
        system: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        batch_size: int = 64,
        share_prefix: bool = True,
        progress: bool = True,
        return_tokens: bool = False,
        stream: bool = False,
        watch: Any = None,
    ) -> Any:
        """Answers to prompts, in their order, without the prompt: a list of texts.

        Args:
            settings: "checkpoint" takes temperature, top_k, top_p and, where it says so, max_new_tokens
                from the model's generation configuration instead of the arguments here, and warns of
                what has no counterpart (repetition_penalty ...).
            temperature: 0 is greedy; above, tokens are drawn, each prompt from its own stream of
                `seed`, so an answer does not depend on its neighbours in the batch.
            top_k, top_p: 0 and 1 keep all tokens.
            chat, system, template_kwargs: as in `tokenize`.
            batch_size: prompts per batch.
            return_tokens: lists of token ids instead of text.
            stream: an iterator of pieces of text as they are written; of several prompts, of (number of
                the prompt, piece). What it writes is steered as where it was called.
            watch: a `cna.Watch`, or a `cna.Probe`, which reads a circuit at every token that is written.
        Raises:
            ValueError: bad prompts or options; a prompt that with its answer exceeds the model.
        """
        ids = self.tokenize(prompts, chat, system=system, template_kwargs=template_kwargs)
        intervention, arms = self._steering(len(ids), ids)
        how: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        how["max_new_tokens"] = max_new_tokens
        how |= generation_settings.asked(settings, self.generation_settings)
        how |= {"seed": seed, "intervention": intervention, "arms": arms}
        how |= {"batch_rows": batch_size, "share_prefix": share_prefix}
        how["watch"] = getattr(watch, "watch", watch)
        if stream:
            if self.tokenizer is None:
                raise ValueError(
                    "generate: expected a model with a tokenizer for stream=True, got one without; "
                    "leave it out"
                )
            return pieces(partial(self.core.generate, ids, **how), self.decode, len(ids) > 1)
        with bar("generate", progress, "step") as update:
            answers = self.core.generate(ids, **how, progress=update)
        if return_tokens or self.tokenizer is None:
            return answers
        return [self.decode(a) for a in answers]

    def chat(
        self, *, system: str | None = None, template_kwargs: Mapping[str, Any] | None = None
    ) -> Chat:
        """A conversation: `say` answers on the keys and values of the earlier turns; see `Chat`."""
        return Chat(self, system, template_kwargs)

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
        intervention, arms = self._steering(len(ids), ids)
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
        intervention, arms = self._steering(len(ids), ids)
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
