"""lm-evaluation-harness on a model with taps, steered or not.

    from cna.lm_eval import CnaLM
    with model.steer(circuit, multiplier=0.0):
        results = lm_eval.simple_evaluate(CnaLM(model), tasks=["hellaswag"])

From a shell, with everything that `lm_eval` takes:

    python -m cna.lm_eval run --model cna --batch_size 64 --tasks hellaswag \\
        --model_args pretrained=smollm2,circuit=circuit.json,multiplier=0

Needs the package lm-eval; requirements/evaluation.txt says how to install it beside a CPU torch.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

# Absolute: `python -m cna.lm_eval` runs this file under a shorter name.
from cna import _core
from cna.base.checks import require_known
from cna.hosts.about import about_model
from cna.hosts.loading import load
from cna.hosts.model import Model
from cna.measure.lm_eval_passes import Passes
from cna.measure.pairs import encode_pair, encode_text

try:
    import lm_eval.models  # noqa: F401 - its own models, before ours joins them
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as _error:  # pragma: no cover - depends on what is installed
    raise ImportError(
        f"cna.lm_eval: expected the package lm-eval, got: {_error}; "
        "install it as requirements/evaluation.txt says"
    ) from None

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

_UNKNOWN_LENGTH = 2048
_IGNORED = {"do_sample", "until", "max_gen_toks", "temperature", "top_k", "top_p"}


@register_model("cna")
class CnaLM(LM):  # type: ignore[misc]
    """A `cna.Model` as lm-evaluation-harness sees one.

    All steering that is active (`with model.steer(...)`) when the harness asks applies, with one
    strength for all prompts. A circuit given here is on during every request.

    Args:
        pretrained: a `cna.Model`, or a name for `cna.load`.
        circuit: a `Circuit`, a `SteeringVector`, an `Intervention`, or the path of a circuit.json.
        multiplier: its strength m: 0 ablates, 1 is the model. The paper's alpha is 1 - m.
        batch_size: prompts per batch.
        max_gen_toks: tokens of an answer where a task sets no limit.
        greedy_flags: whether log likelihoods come with "this is what greedy decoding says", which
            only few tasks use (LAMBADA's accuracy does); False saves a forward pass per prompt and
            says False.
        seed: of sampled answers.
        revision: branch, tag or commit of a Hugging Face id.
        max_batch_size: what the harness passes with batch_size="auto"; not used.
        device, dtype: for `cna.load`, "auto" by default; the CPU where there is no CUDA device.
    Raises:
        ValueError: a model without tokenizer, or active steering with one strength per prompt.
    """

    def __init__(
        self,
        pretrained: Model | str,
        circuit: Any = None,
        multiplier: float = 0.0,
        *,
        batch_size: int | str = 64,
        max_gen_toks: int = 256,
        greedy_flags: bool = True,
        seed: int = 0,
        revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        progress: bool = True,
        max_batch_size: Any = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        require_known("CnaLM", unknown, CnaLM.__init__)
        if not isinstance(pretrained, Model):
            if str(device).startswith("cuda") and not torch.cuda.is_available():
                device = "cpu"  # the harness names cuda:0 on every machine
            pretrained = load(pretrained, revision=revision, device=device, dtype=dtype)
        self.model = pretrained
        if self.model.tokenizer is None:
            raise ValueError(
                "CnaLM: expected a model with a tokenizer, got a bare TorchScript file; export the "
                "model with its tokenizer"
            )
        if isinstance(circuit, (str, os.PathLike)):
            circuit = _core.Circuit.load(circuit)
        self.circuit = circuit
        self.multiplier = float(multiplier)
        if circuit is not None:
            self.model._as_intervention(circuit, self.multiplier)  # a wrong shape shows now
        self.batch_size = int(batch_size) if str(batch_size).isdigit() else 64
        self.max_gen_toks = max_gen_toks
        self.greedy_flags = greedy_flags
        self.seed = seed
        self.progress = progress
        self._device = self.model.device

    # --- what the harness asks about a model --------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        return self.model.tokenizer

    @property
    def tokenizer_name(self) -> str:
        return self.model.model_id.replace("/", "__")

    @property
    def max_length(self) -> int:
        """Tokens of prompt and answer together."""
        return int(self.model.core.max_positions or _UNKNOWN_LENGTH)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: BOS, else the end token."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return int(self.model.core.eos_ids[0])

    def get_model_info(self) -> dict[str, Any]:
        """For the harness's results file."""
        return {
            **about_model(self.model),
            "steered_neurons": len(self.circuit) if isinstance(self.circuit, _core.Circuit) else 0,
            "multiplier": self.multiplier if self.circuit is not None else 1.0,
        }

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **self.model.template_kwargs,
        )

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.tokenizer.chat_template if chat_template else None

    def tok_encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of raw text, with one BOS where the tokenizer writes one."""
        return encode_text(self.tokenizer, text, special)

    # --- requests -----------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """(log likelihood in nats, is it the greedy continuation) of each (context, continuation).

        Contexts too long for the model lose their beginning.
        """
        pairs = [self._encode_pair(*request.args) for request in requests]
        passes = self._passes()
        values = passes.score(pairs, "log likelihood")
        flags = passes.greedy(pairs) if self.greedy_flags else [False] * len(pairs)
        out = [(value, bool(flag)) for value, flag in zip(values, flags, strict=True)]
        for request, answer in zip(requests, out, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return out

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log likelihood of each whole text, nats; long texts in windows as large as the model."""
        windows: list[tuple[list[int], list[int]]] = []
        owner: list[int] = []
        for i, request in enumerate(requests):
            ids = self.tok_encode(request.args[0], special=False)
            for window in get_rolling_token_windows(
                ids, self.prefix_token_id, self.max_length - 1, 1
            ):
                windows.append(make_disjoint_window(window))
                owner.append(i)
        out = [0.0] * len(requests)
        for i, value in zip(owner, self._passes().score(windows, "log likelihood"), strict=True):
            out[i] += value
        for request, answer in zip(requests, out, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return out

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers, each cut before the first of its stop strings."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for i, request in enumerate(requests):
            options = normalize_gen_kwargs(dict(request.args[1]), self.max_gen_toks)
            unknown = set(options) - _IGNORED
            if unknown:
                raise ValueError(
                    f"CnaLM: expected generation options among {sorted(_IGNORED)}, got "
                    f"{sorted(unknown)}; drop these"
                )
            temperature = float(options["temperature"]) if options.get("do_sample") else 0.0
            key = (
                int(options["max_gen_toks"]),
                temperature,
                int(options.get("top_k") or 0),
                float(options.get("top_p") or 1.0),
                tuple(stop for stop in options["until"] if stop),
            )
            groups.setdefault(key, []).append(i)
        out, passes = [""] * len(requests), self._passes()
        for (most, temperature, top_k, top_p, stops), which in groups.items():
            prompts = []
            room = self.max_length - most
            if room < 1:
                raise ValueError(
                    f"CnaLM: expected answers below the model's {self.max_length} tokens, got "
                    f"max_gen_toks={most}; lower it"
                )
            for i in which:
                context = request_text(requests[i])
                ids = self.tok_encode(context) if context else [self.prefix_token_id]
                prompts.append((ids or [self.prefix_token_id])[-room:])
            texts = passes.answers(prompts, most, stops, temperature, top_k, top_p)
            for i, text in zip(which, texts, strict=True):
                out[i] = text
        for request, text in zip(requests, out, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return out

    # --- how they are answered ----------------------------------------------------------------

    def _steering(self) -> _core.Intervention:
        """Everything active now, as one arm."""
        for _, arms, _ in self.model._stack():
            if arms is not None:
                raise ValueError(
                    "CnaLM: expected one strength for all prompts, got one per prompt; steer with a "
                    "single multiplier"
                )
        with self._own():
            return self.model._steering(1)[0]

    @contextlib.contextmanager
    def _own(self) -> Iterator[None]:
        if self.circuit is None:
            yield
            return
        with self.model.steer(self.circuit, self.multiplier):
            yield

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of both; a text without context begins behind `prefix_token_id`."""
        if not context:
            ids = self.tok_encode(continuation, special=False)
            if ids and ids[0] == self.prefix_token_id:
                return ids[:1], ids[1:]
            return [self.prefix_token_id], ids
        return encode_pair(self.tokenizer, context, continuation)

    def _passes(self) -> Passes:
        steering = self._steering()
        return Passes(
            self.model, steering, self.batch_size, self.max_length, self.seed, self.progress
        )


def request_text(request: Instance) -> str:
    """The context of a request."""
    return str(request.args[0])


def main() -> int:
    """`lm_eval` with the model type "cna" known to it."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
