"""GGUF files to fuzz with: tiny seeds, their mutations, and what must hold for every file.

Used by `gguf_patcher.py` and by tests/python/ship/test_fuzz_gguf.py.
"""

from __future__ import annotations

import random
import re
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import cna
import gguf
import numpy as np
from cna.ship import load_control_vector
from cna.ship.gguf_file import open_gguf

LAYERS, WIDTH, HIDDEN = 2, 32, 32
NEURONS = [cna.Neuron(i % LAYERS, 5 * i, 1.0) for i in range(6)]
CIRCUIT = cna.Circuit((LAYERS, WIDTH), NEURONS)
KINDS = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "F16", "F32", "BF16")
ONE_LINE = re.compile(r"(convert|load_control_vector): expected [^\n]+, (got|found) [^\n]+; [^\n]+")
NUMBERS = (0, 1, 2, 7, 31, 63, 65, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)


class Finding(AssertionError):
    """What must hold does not."""


def write(
    tensors: list[tuple[str, tuple[int, ...], str]],
    endian: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
) -> bytes:
    """A GGUF file with tensors of a name, a shape and a type."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed.gguf"
        writer = gguf.GGUFWriter(path, "llama", endianess=endian)
        writer.add_context_length(64)
        writer.add_array("tokenizer.ggml.tokens", ["a", "bc", "\u00e9"])
        writer.add_array("some.floats", [0.5, 1.5])
        for name, shape, kind in tensors:
            quant = gguf.GGMLQuantizationType[kind]
            block, size = gguf.GGML_QUANT_SIZES[quant]
            data = np.full((*shape[:-1], shape[-1] // block * size), 0x2A, np.uint8)  # finite
            writer.add_tensor(name, data, raw_dtype=quant)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def tensors(*kinds: str, layers: int = LAYERS) -> list[tuple[str, tuple[int, ...], str]]:
    """Tensors of a gated model, `kinds` by turns as types of its MLPs."""
    out: list[tuple[str, tuple[int, ...], str]] = []
    for i in range(layers):
        kind = kinds[i % len(kinds)]
        large = "_K" in kind or kind == "IQ4_XS"  # 256 values to a block
        out += [
            (f"blk.{i}.ffn_gate.weight", (1, HIDDEN), "F32"),
            (f"blk.{i}.ffn_up.weight", (WIDTH, 256 if large else HIDDEN), kind),
            (f"blk.{i}.ffn_down.weight", (2, WIDTH), "F16" if large else kind),
        ]
    return out


def valid_seeds() -> dict[str, bytes]:
    """Files that are patched."""
    found = {kind: write(tensors(kind)) for kind in KINDS}
    found["Q4_K-Q6_K"] = write(tensors("Q4_K", "Q6_K"))
    bias = [(f"blk.{i}.ffn_up.bias", (WIDTH,), "F32") for i in range(LAYERS)]
    found["bias"] = write(tensors("Q8_0") + bias)
    found["no-name"] = found["Q4_0"].replace(b"general.architecture", b"general.architectura")
    return found


def broken_seeds() -> dict[str, bytes]:
    """Files that are refused in one line."""
    whole, usual = write(tensors("Q4_0")), tensors("Q4_0")
    nogate = [t for t in usual if "gate" not in t[0]]
    norm = [(f"blk.{i}.ffn_sub_norm.weight", (WIDTH,), "F32") for i in range(LAYERS)]
    vectors = [(f"direction.{i}", (HIDDEN,), "F32") for i in (1, 2)]
    floats = whole.index(b"some.floats") + len(b"some.floats") + 4  # type of elements, then length
    nested = struct.pack("<IQ", 9, 1) * 1000
    offset = whole.index(b"blk.1.ffn_up.weight") + 19 + 4 + 16 + 4
    vector = [("blk.0.ffn_up.weight", (HIDDEN,), "F32")] + [
        t for t in usual if "0.ffn_up" not in t[0]
    ]
    return {
        "empty": b"",
        "magic": whole[:4],
        "counts": whole[:20],
        "header": whole[:300],
        "data": whole[:-100],
        "big-endian": write(usual, gguf.GGUFEndian.BIG),
        "version": whole[:4] + struct.pack("<I", 1) + whole[8:],
        "no-gate": write(nogate),
        "norm": write(usual + norm),
        "layers": write(tensors("Q4_0", layers=3)),
        "control-vector": write(vectors),
        "short-bias": write([*usual, ("blk.1.ffn_up.bias", (WIDTH // 2,), "F32")]),
        "vector": write(vector),
        "overlap": whole[:offset] + struct.pack("<Q", 0) + whole[offset + 8 :],
        "wrap": whole[:offset] + struct.pack("<Q", 2**64 - 512) + whole[offset + 8 :],
        "bad-name": whole.replace(b"blk.1.ffn_up", b"blk.1\nffn_up"),
        "two-lines": whole.replace(b"ffn_up.", b"\nfn_up.").replace(b"blk.1.\n", b"blk.0.\n"),
        "many-tensors": whole[:8] + struct.pack("<Q", 2**60) + whole[16:],
        "many-fields": whole[:16] + struct.pack("<Q", 2**60) + whole[24:],
        "long-array": whole[:floats] + struct.pack("<IQ", 0, 2**60) + whole[floats + 12 :],
        "deep-array": whole[:floats] + nested + whole[floats:],
    }


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four changes, most of them near the start, where the structure is."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        at = int(len(out) * rng.random() ** 2)
        kind = rng.randrange(8)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind == 2:
            out[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS))
        elif kind == 3:
            out[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS) & 0xFFFFFFFF)
        elif kind == 4:
            del out[at : at + rng.randint(1, 64)]
        elif kind == 5:
            out[at:at] = bytes(out[at : at + rng.randint(1, 64)])
        elif kind == 6:
            other = int(len(out) * rng.random() ** 2)
            out[at : at + 8] = out[other : other + 8]
        else:
            del out[rng.randrange(len(out) + 1) :]
    return bytes(out)


def refusal(call: Callable[[], object]) -> str:
    """Why the call refused, in one line; "" where it did not."""
    try:
        call()
    except (ValueError, RuntimeError) as error:
        if not ONE_LINE.fullmatch(str(error)) or not str(error).isprintable():
            raise Finding(f"not one line in the house form: {error!r}") from error
        return str(error)
    return ""


def check(data: bytes, folder: Path) -> str:
    """What must hold for these bytes as a GGUF file; returns why they were not patched, or ""."""
    source, target = folder / "source.gguf", folder / "target.gguf"
    source.write_bytes(data)

    def convert(format: str) -> str:
        target.unlink(missing_ok=True)
        why = refusal(
            lambda: cna.convert(CIRCUIT, source, target, format=format, multiplier=0.5, quiet=True)
        )
        if bool(why) == target.exists():
            raise Finding(f"{format}: a file and a refusal, or neither: '{why}'")
        return why

    convert("gguf-lora")
    refusal(lambda: load_control_vector(source))
    why = convert("gguf")
    if source.read_bytes() != data:
        raise Finding("the source was changed")
    if not why:
        check_patched(data, target.read_bytes(), open_gguf(source))
        target.unlink()
    left = sorted(path.name for path in folder.iterdir() if path != source)
    if left:
        raise Finding(f"left behind: {left}")
    return why


def check_patched(before: bytes, after: bytes, reader: gguf.GGUFReader) -> None:
    """Only rows of the circuit's neurons may differ."""
    if len(after) != len(before):
        raise Finding(f"{len(before)} bytes became {len(after)}")
    changed = np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)
    for tensor in reader.tensors:
        name = tensor.name.split(".")
        if name[0] == "blk" and name[2:] in (["ffn_up", "weight"], ["ffn_up", "bias"]):
            rows = [n.index for n in NEURONS if str(n.layer) == name[1]]
            at, size = int(tensor.data_offset), int(tensor.n_bytes)
            changed[at : at + size].reshape(WIDTH, -1)[rows] = False
    if changed.any():
        raise Finding(f"byte {int(changed.argmax())} changed, outside of the circuit's rows")
