"""llama.cpp loads what cna.convert writes, and its logits and greedy answers are cna's.

    python tests/interop/llama_cpp_check.py LIBRARY [--work FOLDER] [--multiplier M]

LIBRARY is a shared library with llama.cpp's C interface: libllama.so of a build or of
llama-cpp-python, or the module of xllamacpp, which pip installs without compiling (tried with its
2026.10.11549). Needs the default model. The files are
checked on two bases: the default model as it is (Q4_1), where llama.cpp rounds activations, and the
same weights in float32, where the logits must agree closely.

No header is needed: parameter structures are only passed from one function of the library to
another, so they travel as opaque blocks. This holds where large structures go by memory (x86-64).
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
from pathlib import Path
from typing import Any

import cna
import gguf
import numpy as np
import torch
from cna.convert import convert, load_control_vector, save_control_vector
from cna.loading import smollm2_source

N_TOKENS = 24
PROMPTS = ["Start the washing machine.", "Pay my electricity bill.", "Name three fruits."]
VECTOR_LAYER, COEFFICIENT = 20, -0.5


class Opaque(ctypes.Structure):
    """A parameter structure of unknown, smaller size."""

    _fields_ = (("block", ctypes.c_byte * 4096),)


class LlamaCpp:
    """One model in llama.cpp, with an adapter or a control vector."""

    def __init__(self, library: Path, model: Path) -> None:
        self.lib = lib = ctypes.CDLL(str(library))
        pointer = ctypes.c_void_p
        for name, result, arguments in (
            ("llama_model_default_params", Opaque, []),
            ("llama_context_default_params", Opaque, []),
            ("llama_model_load_from_file", pointer, [ctypes.c_char_p, Opaque]),
            ("llama_init_from_model", pointer, [pointer, Opaque]),
            ("llama_model_get_vocab", pointer, [pointer]),
            ("llama_vocab_n_tokens", ctypes.c_int32, [pointer]),
            ("llama_batch_get_one", Opaque, [pointer, ctypes.c_int32]),
            ("llama_decode", ctypes.c_int32, [pointer, Opaque]),
            ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, ctypes.c_int32]),
            ("llama_get_memory", pointer, [pointer]),
            ("llama_memory_clear", None, [pointer, ctypes.c_bool]),
            ("llama_adapter_lora_init", pointer, [pointer, ctypes.c_char_p]),
            ("llama_set_n_threads", None, [pointer, ctypes.c_int32, ctypes.c_int32]),
            ("llama_free", None, [pointer]),
            ("llama_model_free", None, [pointer]),
        ):
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
        silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self.log = silent(lambda level, text, _: None)
        lib.llama_log_set(self.log, None)
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(
            str(model).encode(), lib.llama_model_default_params()
        )
        if not self.model:
            raise RuntimeError(f"llama.cpp did not load '{model}'")
        self.context = lib.llama_init_from_model(self.model, lib.llama_context_default_params())
        lib.llama_set_n_threads(self.context, 1, 1)
        self.vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))

    def lora(self, path: Path, scale: float = 1.0) -> None:
        adapter = self.lib.llama_adapter_lora_init(self.model, str(path).encode())
        if not adapter:
            raise RuntimeError(f"llama.cpp did not load the adapter '{path}'")
        if hasattr(self.lib, "llama_set_adapters_lora"):
            adapters, scales = (ctypes.c_void_p * 1)(adapter), (ctypes.c_float * 1)(scale)
            failed = self.lib.llama_set_adapters_lora(
                ctypes.c_void_p(self.context), adapters, ctypes.c_size_t(1), scales
            )
        else:
            failed = self.lib.llama_set_adapter_lora(
                ctypes.c_void_p(self.context), ctypes.c_void_p(adapter), ctypes.c_float(scale)
            )
        if failed:
            raise RuntimeError("llama.cpp did not apply the adapter")

    def control_vector(self, path: Path, coefficient: float, n_layers: int) -> None:
        """Places direction.N as llama.cpp's own loader does: at (N - 1) * hidden."""
        vectors = load_control_vector(path)
        hidden = len(next(iter(vectors.values())))
        data = np.zeros((n_layers, hidden), np.float32)
        for layer, vector in vectors.items():
            data[layer - 1] = coefficient * vector.numpy()
        name = "llama_set_adapter_cvec"
        call = getattr(self.lib, name if hasattr(self.lib, name) else "llama_apply_adapter_cvec")
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        size = ctypes.c_size_t(data.size)
        if call(ctypes.c_void_p(self.context), pointer, size, hidden, 1, n_layers):
            raise RuntimeError("llama.cpp did not apply the control vector")

    def feed(self, tokens: list[int]) -> np.ndarray:
        block = (ctypes.c_int32 * len(tokens))(*tokens)
        batch = self.lib.llama_batch_get_one(ctypes.cast(block, ctypes.c_void_p), len(tokens))
        if self.lib.llama_decode(self.context, batch):
            raise RuntimeError("llama.cpp did not decode")
        logits = self.lib.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(logits, (self.vocab,)).copy()

    def run(self, prompt: list[int], stop: set[int]) -> tuple[np.ndarray, list[int]]:
        """Logits behind the prompt, and the greedy answer."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        first = logits = self.feed(prompt)
        answer: list[int] = []
        while len(answer) < N_TOKENS:
            token = int(logits.argmax())
            if token in stop:
                break
            answer.append(token)
            logits = self.feed([token])
        return first, answer

    def close(self) -> None:
        self.lib.llama_free(self.context)
        self.lib.llama_model_free(self.model)


def write_float32(source: Path, target: Path) -> None:
    """The same model with every tensor dequantised to float32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = 0 if name == "general.file_type" else field.contents()
        writer.add_key_value(name, value, kind, inner)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("--work", type=Path, default=None, help="keeps the files there")
    parser.add_argument("--multiplier", type=float, default=-1.0)
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="cna-interop-"))
    work.mkdir(parents=True, exist_ok=True)
    multiplier = options.multiplier

    model = cna.load("smollm2")
    task = cna.tasks.load("capability-refusal")
    circuit = cna.discover(model, task.positive, task.negative, progress=False)
    layers = [
        model.record(side, site="residual", progress=False)[:, VECTOR_LAYER].mean(0)
        for side in (task.positive, task.negative)
    ]
    vector = layers[0] - layers[1]

    folder, name = smollm2_source()
    bases = {"float32": work / "float32.gguf", "Q4_1": folder / name}
    write_float32(bases["Q4_1"], bases["float32"])
    save_control_vector({VECTOR_LAYER: vector}, work / "cvec.gguf", "llama", overwrite=True)
    prompts = model.tokenize(PROMPTS)
    stop = {model.tokenizer.eos_token_id}

    def expected(steering: Any, strength: float) -> tuple[torch.Tensor, list[list[int]]]:
        with model.steer(steering, strength):
            logits = model.logits(prompts, progress=False)
            answers = model.generate(prompts, N_TOKENS, return_tokens=True, progress=False)
        return logits, [[t for t in a if t not in stop] for a in answers]

    add = cna.Intervention.add("residual", VECTOR_LAYER, vector, [COEFFICIENT])
    plain, steered = expected(circuit, 1.0), expected(circuit, multiplier)
    half, pushed = expected(circuit, 0.5 + 0.5 * multiplier), expected(add, 1.0)
    failed = False
    print(f"{'base':8} {'file':16} {'vs steered':>10} {'vs plain':>10}  same greedy tokens")
    for base, file in bases.items():
        options_ = {"format": "gguf-lora", "multiplier": multiplier, "overwrite": True}
        lora = convert(circuit, file, work / f"{base}.lora.gguf", quiet=True, **options_).path
        options_["format"] = "gguf"
        patched = convert(circuit, file, work / f"{base}.patched.gguf", quiet=True, **options_).path
        runs = [
            ("unsteered", file, None, plain),
            ("gguf", patched, None, steered),
            ("gguf-lora", file, (lora, 1.0), steered),
            ("gguf-lora x 0.5", file, (lora, 0.5), half),
            ("control-vector", file, "cvec", pushed),
        ]
        for label, weights, extra, (logits, answers) in runs:
            engine = LlamaCpp(options.library, weights)
            if isinstance(extra, tuple):
                engine.lora(*extra)
            elif extra:
                engine.control_vector(work / "cvec.gguf", COEFFICIENT, model.n_layers)
            got = [engine.run(prompt, stop) for prompt in prompts]
            engine.close()
            found = torch.from_numpy(np.stack([g[0] for g in got]))
            near, far = (float((found - x).abs().max() / x.abs().max()) for x in (logits, plain[0]))
            same = sum(
                x == y
                for g, a in zip(got, answers, strict=True)
                for x, y in zip(g[1], a, strict=False)
            )
            total = sum(len(a) for a in answers)
            print(f"{base:8} {label:16} {near:10.1e} {far:10.1e}  {same} of {total}", flush=True)
            if base == "float32":
                failed = failed or near > 1e-2 or same != total
            elif label != "unsteered":
                failed = failed or near > far
    print("failed" if failed else "passed")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
