"""One contender in one process: loads the model, then does the jobs that run.py names.

    python worker.py CONTENDER FOLDER THREADS DEVICE

Jobs come as JSON lines on standard input; replies go as JSON lines to standard output. Times are
those of the job alone: the model is loaded and every prompt is a list of token ids beforehand.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

BATCH = 32  # rows of the hook baselines and of the peers
DEVICE = sys.argv[4] if len(sys.argv) > 4 else "cpu"
Ids = list[list[int]]


def top_k(delta: np.ndarray, k: int) -> list[list[int]]:
    """The k neurons of largest |delta| [n_layers, width], ties by layer, then index."""
    order = np.argsort(-np.abs(delta).ravel(), kind="stable")[:k]
    return [[int(i) // delta.shape[1], int(i) % delta.shape[1]] for i in order]


def pad_left(ids: Ids, pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, mask and positions, int64 [rows, longest], of prompts padded on the left."""
    longest = max(map(len, ids))
    tokens = torch.tensor([[pad] * (longest - len(p)) + p for p in ids], device=DEVICE)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in ids], device=DEVICE)
    return tokens, mask, (mask.cumsum(1) - 1).clamp_min(0)


def batches(ids: Ids, by_length: bool, rows: int = BATCH) -> Iterator[list[int]]:
    """Which prompts go together: in their order, or those of like length, longest first."""
    order = list(range(len(ids)))
    if by_length:
        order.sort(key=lambda i: -len(ids[i]))
    for start in range(0, len(order), rows):
        yield order[start : start + rows]


def settle() -> None:
    """Wait until the device has done what it was given."""
    if DEVICE.startswith("cuda"):
        torch.cuda.synchronize()


class Cna:
    """This library, through its public objects; steered runs name their strengths as arms."""

    def __init__(self, folder: Path) -> None:
        import cna

        self.cna, self.folder = cna, folder
        self.model = cna.load(folder / "cna", device=DEVICE)

    def discover(self, positive: Ids, negative: Ids, k: int) -> tuple[list[list[int]], np.ndarray]:
        circuit = self.cna.discover(
            self.model, positive, negative, k=k, universal=None, progress=False
        )
        delta = np.zeros((self.model.n_layers, self.model.width))
        for n in circuit.neurons:
            delta[n.layer, n.index] = n.delta
        return [[n.layer, n.index] for n in circuit.neurons], delta

    def generate(self, ids: Ids, strengths: list[float], new: int) -> Ids:
        """Answers strength by strength, all rows of all strengths in one run."""
        circuit = self.cna.Circuit.load(self.folder / "circuit.json")
        return self.model.core.generate(
            ids * len(strengths),
            max_new_tokens=new,
            ignore_eos=True,
            intervention=self.cna.Intervention.scale(circuit, strengths),
            arms=[arm for arm in range(len(strengths)) for _ in ids],
        )

    def steps(self, ids: Ids, new: int, pairs: int) -> dict[str, Any]:
        """Seconds of every decoding step, unsteered and steered in turns."""
        circuit = self.cna.Circuit.load(self.folder / "circuit.json")
        plans = {
            "unsteered": self.cna.Intervention(1),
            "steered": self.cna.Intervention.scale(circuit, [0.0]),
        }
        out: dict[str, list[list[float]]] = {name: [] for name in plans}
        for pair in range(-1, pairs):  # the first pair warms up
            for name in sorted(plans, reverse=pair % 2 == 0):
                ticks: list[float] = []
                self.model.core.generate(
                    ids,
                    max_new_tokens=new,
                    ignore_eos=True,
                    intervention=plans[name],
                    batch_rows=len(ids),
                    progress=lambda done, total, ticks=ticks: ticks.append(time.perf_counter()),
                )
                if pair >= 0:  # the first step is the prompt
                    out[name].append([b - a for a, b in pairwise(ticks[1:])])
        return {"seconds_per_step": out, "batch_rows": len(ids), "neurons": len(circuit)}

    def work(self, positive: Ids, negative: Ids) -> dict[str, Any]:
        """Multiply-adds of a discovery: every token that cna computes, padding not counted."""
        config = json.loads((self.folder / "hf" / "config.json").read_text())
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
        dim = config.get("head_dim") or hidden // heads
        kv = config.get("num_key_value_heads", heads)
        shapes = [(hidden, (heads + 2 * kv) * dim), (heads * dim, hidden)]
        shapes += [(hidden, inner), (hidden, inner), (inner, hidden)]
        linear = layers * sum(a * b for a, b in shapes) - inner * hidden  # ends at the last tap
        ids = positive + negative
        prefix = self.cna._core.common_prefix(ids)
        own = [len(p) - prefix for p in ids]
        seen = prefix * (prefix + 1) // 2
        seen += sum(prefix * n + n * (n + 1) // 2 for n in own)
        tokens = prefix + sum(own)
        padded = prefix
        largest = 1
        for rows in batches([[0] * n for n in own], True, rows=64):
            size = len(rows) * max(own[i] for i in rows)
            padded, largest = padded + size, max(largest, size)
        return {
            "multiply_adds": tokens * linear + 2 * layers * heads * dim * seen,
            "tokens_of_prompts": sum(map(len, ids)),
            "shared_prefix": prefix,
            "tokens_computed": tokens,
            "tokens_with_padding": padded,
            "shapes": [[largest, a, b] for a, b in shapes],
        }

    def matmul(self, shapes: list[list[int]], seconds: float) -> float:
        """Multiply-adds a second of torch.matmul, float32, over the shapes [rows, in, out]."""
        draw = functools.partial(torch.randn, device=DEVICE)
        pairs = [(draw(t, a), draw(b, a).t()) for t, a, b in shapes]
        size = sum(t * a * b for t, a, b in shapes)
        rates: list[float] = []
        end = time.perf_counter() + seconds
        with torch.inference_mode():
            while time.perf_counter() < end or len(rates) < 3:
                start = time.perf_counter()
                for x, w in pairs:
                    torch.matmul(x, w)
                settle()
                rates.append(size / (time.perf_counter() - start))
        return statistics.median(rates)


class HuggingFace:
    """What all contenders on a Hugging Face model share; float32, evaluation mode."""

    by_length = True

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.folder = folder
        self.hf: Any = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
        self.hf.eval().to(DEVICE)
        self.hf.generation_config.eos_token_id = self.hf.config.eos_token_id = None
        self.pad = 0
        self.layers = list(self.hf.model.layers)

    def discover(self, positive: Ids, negative: Ids, k: int) -> tuple[list[list[int]], np.ndarray]:
        ids = positive + negative
        acts = self.record(ids).double().numpy()
        delta = acts[: len(positive)].mean(0) - acts[len(positive) :].mean(0)
        return top_k(delta, k), delta

    @torch.no_grad()
    def record(self, ids: Ids) -> torch.Tensor:
        """Last-token inputs of every down projection, [n_prompts, n_layers, width]."""
        out = torch.empty(len(ids), len(self.layers), self.hf.config.intermediate_size)
        for rows in batches(ids, self.by_length):
            out[rows] = self.collect([ids[i] for i in rows]).cpu()
        return out

    def collect(self, ids: Ids) -> torch.Tensor:
        raise NotImplementedError


class Hooks(HuggingFace):
    """Hand-written forward hooks, tuned: like lengths together, left padding, no logits."""

    def collect(self, ids: Ids) -> torch.Tensor:
        tokens, mask, positions = pad_left(ids, self.pad)
        found: list[torch.Tensor] = []
        hooks = [
            layer.mlp.down_proj.register_forward_pre_hook(
                lambda _, args: found.append(args[0][:, -1].clone())
            )
            for layer in self.layers
        ]
        try:
            self.hf.model(tokens, attention_mask=mask, position_ids=positions, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(found, 1)

    @contextlib.contextmanager
    def steered(self, strength: float) -> Iterator[None]:
        circuit = json.loads((self.folder / "neurons.json").read_text())
        hooks = []
        for number, layer in enumerate(self.layers):
            mine = [i for where, i in circuit if where == number]
            if mine:
                scale = torch.ones(self.hf.config.intermediate_size, device=DEVICE)
                scale[mine] = strength
                hooks.append(
                    layer.mlp.down_proj.register_forward_pre_hook(
                        lambda _, args, scale=scale: (args[0] * scale,)
                    )
                )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def answers(self, ids: Ids, new: int) -> Ids:
        tokens, mask, _ = pad_left(ids, self.pad)
        out = self.hf.generate(
            tokens, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=self.pad
        )
        return out[:, tokens.shape[1] :].tolist()

    @torch.inference_mode()
    def generate(self, ids: Ids, strengths: list[float], new: int) -> Ids:
        out: Ids = []
        for strength in strengths:
            with self.steered(strength):
                out += self.answers(ids, new)
        return out


class HooksOneByOne(Hooks):
    """The same hooks as they are mostly written: one prompt at a time, whole model."""

    def record(self, ids: Ids) -> torch.Tensor:
        found: list[torch.Tensor] = []
        hooks = [
            layer.mlp.down_proj.register_forward_pre_hook(
                lambda _, args: found.append(args[0][0, -1].clone())
            )
            for layer in self.layers
        ]
        try:
            with torch.inference_mode():
                for prompt in ids:
                    self.hf(torch.tensor([prompt], device=DEVICE))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(found).reshape(len(ids), len(self.layers), -1).cpu()

    def answers(self, ids: Ids, new: int) -> Ids:
        return [Hooks.answers(self, [prompt], new)[0] for prompt in ids]


class NNsight(HuggingFace):
    """nnsight: one trace a batch that saves the last token of every down projection's input."""

    by_length = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import nnsight

        self.wrapped, self.save = nnsight.NNsight(self.hf), nnsight.save

    def collect(self, ids: Ids) -> torch.Tensor:
        tokens, mask, positions = pad_left(ids, self.pad)
        with self.wrapped.trace(input_ids=tokens, attention_mask=mask, position_ids=positions):
            found = self.save([])
            for layer in self.wrapped.model.layers:
                found.append(layer.mlp.down_proj.input[:, -1].clone())
        return torch.stack(found, 1)


class NNsightTuned(NNsight):
    """nnsight with batches of like lengths, stopped behind the last layer's neurons."""

    by_length = True

    def collect(self, ids: Ids) -> torch.Tensor:
        tokens, mask, positions = pad_left(ids, self.pad)
        with self.wrapped.trace(
            input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False
        ) as tracer:
            found = self.save([])
            for layer in self.wrapped.model.layers:
                found.append(layer.mlp.down_proj.input[:, -1].clone())
            tracer.stop()
        return torch.stack(found, 1)


class Pyvene(HuggingFace):
    """pyvene: a CollectIntervention at the last position of every down projection's input."""

    by_length = False
    extra: dict[str, Any] = {}  # noqa: RUF012
    use_cache: bool | None = None

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import pyvene

        places = [
            {
                "layer": number,
                "component": f"model.layers[{number}].mlp.down_proj.input",
                "unit": "pos",
                "max_number_of_units": 1,
                "intervention_type": pyvene.CollectIntervention,
            }
            for number in range(len(self.layers))
        ]
        config = pyvene.IntervenableConfig(places)
        self.wrapped = pyvene.IntervenableModel(config, model=self.hf)
        numbers = [
            int(re.search(r"layers\[(\d+)\]", key)[1])  # type: ignore[index]
            for key in self.wrapped.sorted_keys
        ]
        self.order = [numbers.index(n) for n in range(len(self.layers))]

    def collect(self, ids: Ids) -> torch.Tensor:
        tokens, mask, positions = pad_left(ids, self.pad)
        base = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
        (_, found), _ = self.wrapped(
            {**base, **self.extra},
            unit_locations={"base": tokens.shape[1] - 1},
            use_cache=self.use_cache,
        )
        rows = torch.stack(list(found), 1).reshape(len(ids), len(self.layers), -1)
        return rows[:, self.order]


class PyveneTuned(Pyvene):
    """pyvene with batches of like lengths, logits of the last token only."""

    by_length = True
    extra = {"logits_to_keep": 1}  # noqa: RUF012
    use_cache = False


class SteeringVectors(HuggingFace):
    """steering-vectors: its record_activations, which reads outputs of modules.

    A neuron is act(gate) * up, an output of no module: two recorders read both factors.
    """

    by_length = False
    clone = True
    extra: dict[str, Any] = {}  # noqa: RUF012

    def collect(self, ids: Ids) -> torch.Tensor:
        from steering_vectors import record_activations

        tokens, mask, positions = pad_left(ids, self.pad)
        gates: Any = {"mlp": "model.layers.{num}.mlp.act_fn"}
        ups: Any = {"mlp": "model.layers.{num}.mlp.up_proj"}
        with (
            record_activations(self.hf, "mlp", gates, clone_activations=self.clone) as gate,
            record_activations(self.hf, "mlp", ups, clone_activations=self.clone) as up,
        ):
            self.hf(tokens, attention_mask=mask, position_ids=positions, **self.extra)
        return torch.stack(
            [gate[n][0][:, -1] * up[n][0][:, -1] for n in range(len(self.layers))], 1
        )


class SteeringVectorsTuned(SteeringVectors):
    """steering-vectors with batches of like lengths, no copies, logits of the last token only."""

    by_length = True
    clone = False
    extra = {"logits_to_keep": 1, "use_cache": False}  # noqa: RUF012


class Memory:
    """Peak memory of a streaming discovery on a small random model, which prepare() writes."""

    def __init__(self, folder: Path) -> None:
        import cna

        self.model = cna.load(folder / "tiny")

    def stream(self, n: int) -> dict[str, Any]:
        draw = random.Random(0)
        ids = [[draw.randrange(256) for _ in range(draw.randint(4, 12))] for _ in range(n)]
        half = n // 2
        warm = min(half, 250)  # fills the pools of the allocator
        self.model.core.contrast(ids[:warm], ids[half : half + warm], share_prefix=False)
        before = peak_mib()
        start = time.perf_counter()
        self.model.core.contrast(ids[:half], ids[half:], share_prefix=False)
        seconds = time.perf_counter() - start
        size = self.model.n_layers * self.model.width
        return {
            "prompts": n,
            "seconds": seconds,
            "before_mib": before,
            "after_mib": peak_mib(),
            "activations_mib": n * size * 4 / 2**20,
        }


def prepare(folder: Path, name: str, sizes: dict[str, int]) -> dict[str, Any]:
    """Writes what the contenders share: the model twice, prompts as token ids, and a circuit."""
    import cna
    from cna.loading import load_hf
    from transformers import LlamaConfig, LlamaForCausalLM

    hf, tokenizer = load_hf(name)
    hf.save_pretrained(folder / "hf")
    cna.export(hf, tokenizer, folder / "cna")
    del hf
    model = cna.load(folder / "cna")
    task = cna.tasks.load("capability-refusal")
    n = sizes["discovery"] // 2
    ids = {
        "positive": model.tokenize(task.positive[:n]),
        "negative": model.tokenize(task.negative[:n]),
        "evaluation": model.tokenize(task.evaluation),
    }
    circuit = cna.discover(model, ids["positive"], ids["negative"], progress=False)
    circuit.save(folder / "circuit.json")
    neurons = [[n.layer, n.index] for n in circuit.neurons]
    (folder / "neurons.json").write_text(json.dumps(neurons))
    torch.manual_seed(0)
    tiny = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=64,
            intermediate_size=2048,
            num_hidden_layers=8,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=256,
            max_position_embeddings=256,
        )
    )
    cna.export(tiny.eval(), None, folder / "tiny", model_id="random Llama")
    return {"ids": ids, "k": len(circuit), "model": model.model_id}


CONTENDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cna": (Cna, ""),
    "hooks": (Hooks, "transformers"),
    "hooks-one-by-one": (HooksOneByOne, "transformers"),
    "nnsight": (NNsight, "nnsight"),
    "nnsight-tuned": (NNsightTuned, "nnsight"),
    "pyvene": (Pyvene, "pyvene"),
    "pyvene-tuned": (PyveneTuned, "pyvene"),
    "steering-vectors": (SteeringVectors, "steering-vectors"),
    "steering-vectors-tuned": (SteeringVectorsTuned, "steering-vectors"),
    "memory": (Memory, ""),
    "prepare": (lambda folder: None, ""),
}


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def versions(package: str) -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in ("torch", "transformers", "numpy", package):
        with contextlib.suppress(PackageNotFoundError, ValueError):
            found[name] = version(name)
    if not package:
        with contextlib.suppress(ImportError, AttributeError):
            import cna

            found["cna"] = cna.__version__
    found["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    return found


def do(contender: Any, folder: Path, job: dict[str, Any]) -> Any:
    what = job.pop("do")
    if what == "prepare":
        return prepare(folder, **job)
    if what in ("work", "matmul", "steps", "stream"):
        return getattr(contender, what)(**job)
    start = time.perf_counter()
    if what == "discover":
        save = job.pop("save", None)
        neurons, delta = contender.discover(**job)
        seconds = time.perf_counter() - start
        if save:
            np.save(folder / save, delta)
        return {"seconds": seconds, "neurons": neurons, "peak_mib": peak_mib()}
    if what == "generate":
        answers = contender.generate(**job)
        return {"seconds": time.perf_counter() - start, "answers": answers, "peak_mib": peak_mib()}
    raise ValueError(f"worker: expected a known job, got {what!r}; see do()")


def main() -> None:
    name, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to standard error
    torch.set_num_threads(threads)

    def reply(value: dict[str, Any]) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    try:
        make, package = CONTENDERS[name]
        contender = make(folder)
        reply({"ready": True, "versions": versions(package)})
    except Exception as error:
        reply({"error": f"{type(error).__name__}: {error}"[:300]})
        return
    for line in sys.stdin:
        try:
            reply({"result": do(contender, folder, json.loads(line))})
        except Exception as error:
            import traceback

            traceback.print_exc()
            reply({"error": f"{type(error).__name__}: {error}"[:300]})


if __name__ == "__main__":
    main()
