"""One contender in one process: loads the model, then does the jobs that run.py names.

    python worker.py CONTENDER FOLDER THREADS DEVICE

Jobs come as JSON lines on standard input; replies go as JSON lines to standard output. Times are
those of the job alone: the model is loaded and every prompt is a list of token ids beforehand.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from contenders import Hooks, HooksOneByOne
from ours import Before, Cna


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
    from cna.measure.pairs import encode_pair
    from transformers import LlamaConfig, LlamaForCausalLM

    hf, tokenizer = load_hf(name)
    hf.save_pretrained(folder / "hf")
    cna.export(hf, tokenizer, folder / "cna")
    del hf
    model = cna.load(folder / "cna")
    task = cna.tasks.load("capability-refusal")
    n = sizes["discovery"] // 2
    pairs = cna.tasks.load("subject-verb")
    ids: dict[str, Any] = {
        "positive": model.tokenize(task.positive[:n]),
        "negative": model.tokenize(task.negative[:n]),
        "evaluation": model.tokenize(task.evaluation),
        "pairs_positive": model.tokenize(pairs.positive, chat=pairs.chat),
        "pairs_negative": model.tokenize(pairs.negative, chat=pairs.chat),
    }
    benign = model.tokenize(task.benign[: sizes["kl"]])
    answers = model.core.generate(benign, max_new_tokens=40)
    ids["kl"] = [[p, a] for p, a in zip(benign, answers, strict=True) if a]
    questions = cna.prompts.draw_questions(cna.prompts.read_quiz(), sizes["quiz"], seed=0)
    ids["quiz"] = [
        list(encode_pair(tokenizer, f"Question: {q.question}\nAnswer:", f" {choice}"))
        for q in questions
        for choice in q.choices
    ]
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
    "before": (Before, ""),
    "hooks": (Hooks, "transformers"),
    "hooks-one-by-one": (HooksOneByOne, "transformers"),
    "nnsight": (peers.NNsight, "nnsight"),
    "nnsight-tuned": (peers.NNsightTuned, "nnsight"),
    "pyvene": (peers.Pyvene, "pyvene"),
    "pyvene-tuned": (peers.PyveneTuned, "pyvene"),
    "steering-vectors": (peers.SteeringVectors, "steering-vectors"),
    "steering-vectors-tuned": (peers.SteeringVectorsTuned, "steering-vectors"),
    "memory": (Memory, ""),
    "prepare": (lambda folder: None, ""),
}


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def page_faults() -> int:
    """Pages that this process asked the system for so far, from memory or disk."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_minflt + used.ru_majflt


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
    if what not in ("discover", "generate", "divergence", "likelihood"):
        raise ValueError(f"worker: expected a known job, got {what!r}; see do()")
    save = job.pop("save", None)
    faults, start = page_faults(), time.perf_counter()
    found = getattr(contender, what)(**job)
    out = {"seconds": time.perf_counter() - start, "page_faults": page_faults() - faults}
    out["peak_mib"] = peak_mib()
    if what != "discover":
        return out | {"found": found}
    neurons, delta = found
    if save:
        np.save(folder / save, delta)
    return out | {"neurons": neurons}


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
