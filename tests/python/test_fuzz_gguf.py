"""Mutated GGUF files: the patcher writes a whole file or says in one line what is wrong."""

from __future__ import annotations

import random
import re
import signal
import struct
import time
from pathlib import Path
from types import FrameType

import cna
import numpy as np
import pytest

gguf = pytest.importorskip("gguf")

SECONDS = 20.0
LAYERS, WIDTH, HIDDEN = 2, 64, 32
ONE_LINE = re.compile(r"^convert: expected [^\n]+; [^\n]+$")
NUMBERS = (0, 1, 2, 7, 31, 63, 65, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)


def write_model(path: Path) -> Path:
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDTH)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", "\u00e9"])
    writer.add_array("some.floats", [0.5, 1.5])
    quant = gguf.GGMLQuantizationType.Q4_0
    for i in range(LAYERS):
        for name, rows, columns in (
            ("gate", WIDTH, HIDDEN),
            ("up", WIDTH, HIDDEN),
            ("down", HIDDEN, WIDTH),
        ):
            values = rng.normal(0, 0.2, (rows, columns)).astype(np.float32)
            data = gguf.quants.quantize(values, quant)
            writer.add_tensor(f"blk.{i}.ffn_{name}.weight", data, raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def mutate(whole: bytes, header: int, rng: random.Random) -> bytes:
    """One to four changes, three of four in the header, where the structure is."""
    data = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        end = header if rng.random() < 0.75 else len(data)
        at = rng.randrange(max(1, min(end, len(data))))
        kind = rng.randrange(7)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            data[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS))
        elif kind == 3:
            data[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS) & 0xFFFFFFFF)
        elif kind == 4:
            del data[at : at + rng.randint(1, 64)]
        elif kind == 5:
            data[at:at] = bytes(data[at : at + rng.randint(1, 64)])
        else:
            data = data[: rng.randrange(len(data) + 1)]
        if not data:
            break
    return bytes(data)


def out_of_time(_: int, __: FrameType | None) -> None:
    raise TimeoutError("one mutated file took longer than 10 s")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_mutated_gguf_file_is_patched_whole_or_refused_in_one_line(tmp_path: Path) -> None:
    whole = write_model(tmp_path / "whole.gguf").read_bytes()
    header = min(t.data_offset for t in gguf.GGUFReader(tmp_path / "whole.gguf").tensors)
    neurons = [cna.Neuron(i % LAYERS, 5 * i % WIDTH, 1.0) for i in range(8)]
    circuit = cna.Circuit((LAYERS, WIDTH), neurons)
    source, target = tmp_path / "mutated.gguf", tmp_path / "out.gguf"
    before = signal.signal(signal.SIGALRM, out_of_time)
    rng = random.Random(20)
    runs = patched = 0
    start = time.monotonic()
    try:
        while time.monotonic() - start < SECONDS:
            data = mutate(whole, header, rng)
            source.write_bytes(data)
            signal.alarm(10)
            try:
                cna.convert(circuit, str(source), target, format="gguf", multiplier=0.5, quiet=True)
                assert target.stat().st_size == len(data)
                patched += 1
            except (ValueError, RuntimeError) as error:
                assert ONE_LINE.match(str(error)), f"run {runs}: {error!r}"
                assert not target.exists(), f"run {runs}: a file in spite of '{error}'"
            finally:
                signal.alarm(0)
            assert source.read_bytes() == data, f"run {runs}: the source was changed"
            left = {p.name for p in tmp_path.iterdir()} - {"whole.gguf", source.name, target.name}
            assert not left, f"run {runs}: left {left}"
            target.unlink(missing_ok=True)
            runs += 1
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    print(f"{runs} mutated files, {patched} patched")
    assert runs > 50 and patched > 0
