"""Conversion: what is written is loaded back by its consumer and must steer as cna does."""

from __future__ import annotations

import json
import tracemalloc
import warnings
from pathlib import Path

import cna
import numpy as np
import pytest
import torch
from cna.convert import (
    convert,
    folded,
    load_control_vector,
    read_authors_json,
    save_control_vector,
    write_authors_json,
)
from cna.convert.gguf_patch import BLOCKS, scale_row
from cna.convert.lora import rank_note
from gguf_writing import finished
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig

LAYERS, WIDTH, HIDDEN, VOCAB = 3, 128, 64, 96
PROMPTS = [[1, 5, 9, 40, 2], [7, 7, 30], [3, 90, 21, 60, 11, 12]]
MULTIPLIERS = [0.0, 1.0, 2.0, -1.0, 0.3]


def llama(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def random_circuit(layers: int = LAYERS, width: int = WIDTH, k: int = 24) -> cna.Circuit:
    rng = np.random.default_rng(1)
    flat = rng.choice(layers * width, size=k, replace=False)
    neurons = [cna.Neuron(int(i // width), int(i % width), float(rng.normal())) for i in flat]
    return cna.Circuit((layers, width), neurons)


def hf_logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([model(torch.tensor([p])).logits[0, -1].float() for p in PROMPTS])


def with_adapter(base: torch.nn.Module, folder: Path) -> torch.nn.Module:
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():  # peft reads properties that transformers renames
        warnings.simplefilter("ignore", FutureWarning)
        return peft.PeftModel.from_pretrained(base, folder)


def assert_same(got: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert float((got - expected).abs().max() / expected.abs().max()) <= tolerance


@pytest.fixture(scope="module")
def circuit() -> cna.Circuit:
    return random_circuit()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face checkpoint of one file."""
    folder = tmp_path_factory.mktemp("hf") / "tiny"
    llama().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(source: Path, tmp_path_factory: pytest.TempPathFactory) -> cna.Model:
    """The same weights in cna."""
    folder = tmp_path_factory.mktemp("export") / "tiny"
    cna.export(AutoModelForCausalLM.from_pretrained(source), None, folder)
    return cna.load(folder)


def steered(model: cna.Model, circuit: cna.Circuit, multiplier: float) -> torch.Tensor:
    with model.steer(circuit, multiplier):
        return model.logits(PROMPTS, progress=False)


# --- folded checkpoints -------------------------------------------------------------------------


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_folded_checkpoint_gives_the_logits_of_steering(
    source: Path, model: cna.Model, circuit: cna.Circuit, tmp_path: Path, multiplier: float
) -> None:
    done = convert(circuit, source, tmp_path / "out", format="hf", multiplier=multiplier)
    assert (done.neurons, done.layers, done.rank) == (24, (0, 1, 2), 0)
    got = hf_logits(AutoModelForCausalLM.from_pretrained(done.path))
    assert_same(got, steered(model, circuit, multiplier))
    if multiplier != 1:
        assert (
            float((got - hf_logits(AutoModelForCausalLM.from_pretrained(source))).abs().max()) > 0
        )


def test_folding_changes_only_the_columns_of_the_circuit(
    source: Path, circuit: cna.Circuit, tmp_path: Path
) -> None:
    out = convert(circuit, source, tmp_path / "out", multiplier=-0.7).path
    before, after = (load_file(f / "model.safetensors") for f in (source, out))
    assert before.keys() == after.keys()
    for name, old in before.items():
        expected = old.clone()
        if name.endswith("mlp.down_proj.weight"):
            layer = int(name.split(".")[2])
            columns = [n.index for n in circuit.neurons if n.layer == layer]
            expected[:, columns] = old[:, columns] * -0.7
        assert torch.equal(after[name], expected)
    for name in ("config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    mark = json.loads((out / "cna_conversion.json").read_text())
    assert mark["multiplier"] == -0.7 and len(mark["circuit"]["neurons"]) == 24


def test_sharded_checkpoint_keeps_its_index_and_untouched_shards(
    source: Path, model: cna.Model, tmp_path: Path
) -> None:
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(source).save_pretrained(sharded, max_shard_size="100KB")
    (sharded / "pytorch_model.bin").write_bytes(b"other weights")
    one_layer = cna.Circuit((LAYERS, WIDTH), [cna.Neuron(2, 5, 1.0), cna.Neuron(2, 9, 1.0)])
    out = convert(one_layer, sharded, tmp_path / "out", multiplier=0.0).path
    files = sorted(f.name for f in sharded.glob("*.safetensors"))
    assert len(files) > 2 and files == sorted(f.name for f in out.glob("*.safetensors"))
    changed = [f for f in files if (sharded / f).read_bytes() != (out / f).read_bytes()]
    assert len(changed) == 1
    index = "model.safetensors.index.json"
    assert (out / index).read_bytes() == (sharded / index).read_bytes()
    assert not (out / "pytorch_model.bin").exists()
    got = hf_logits(AutoModelForCausalLM.from_pretrained(out))
    assert_same(got, steered(model, one_layer, 0.0))


def test_bfloat16_columns_are_rounded_once(circuit: cna.Circuit, tmp_path: Path) -> None:
    half = llama().to(torch.bfloat16)
    out = convert(circuit, half, tmp_path / "out", multiplier=0.3).path
    after = load_file(out / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    expected = half.model.layers[1].mlp.down_proj.weight.detach().clone()
    columns = [n.index for n in circuit.neurons if n.layer == 1]
    expected[:, columns] = (expected[:, columns].float() * 0.3).to(torch.bfloat16)
    assert torch.equal(after, expected)


def test_transposed_weights_are_scaled_by_row(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.2,
    )
    gpt2 = GPT2LMHeadModel(config).eval()
    gpt2.save_pretrained(tmp_path / "gpt2")
    cna.export(gpt2, None, tmp_path / "export")
    exported = cna.load(tmp_path / "export")
    circuit = random_circuit(2, 128, 10)
    out = convert(circuit, tmp_path / "gpt2", tmp_path / "out", multiplier=0.0).path
    expected = steered(exported, circuit, 0.0)
    assert_same(hf_logits(AutoModelForCausalLM.from_pretrained(out)), expected)
    adapter = convert(circuit, tmp_path / "gpt2", tmp_path / "peft", format="peft", quiet=True).path
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "gpt2")
    assert_same(hf_logits(with_adapter(base, adapter)), expected)


def test_folding_holds_a_few_megabytes_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    name = "model.layers.0.mlp.down_proj.weight"
    save_file({name: torch.ones(2048, 16384)}, folder / "model.safetensors")  # 128 MiB
    circuit = cna.Circuit((1, 16384), [cna.Neuron(0, 16000, 1.0), cna.Neuron(0, 3, 1.0)])
    tracemalloc.start()
    try:
        out = convert(circuit, folder, tmp_path / "out", multiplier=2.0).path
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20
    after = load_file(out / "model.safetensors")[name]
    assert after[:, [3, 16000]].eq(2).all() and after.sum(dtype=torch.float64) == 2048 * 16386


def test_a_failed_conversion_leaves_nothing(
    source: Path, circuit: cna.Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folded, "scale_columns", fail)
    with pytest.raises(RuntimeError, match=r"^convert: expected to write .*No space left"):
        convert(circuit, source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# --- LoRA adapters ------------------------------------------------------------------------------


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_peft_loads_the_adapter_and_gives_the_logits_of_steering(
    source: Path, model: cna.Model, circuit: cna.Circuit, tmp_path: Path, multiplier: float
) -> None:
    done = convert(circuit, source, tmp_path / "out", format="peft", multiplier=multiplier)
    assert done.rank == max(circuit.layer_counts)
    adapted = with_adapter(AutoModelForCausalLM.from_pretrained(source), done.path)
    assert_same(hf_logits(adapted), steered(model, circuit, multiplier))


def test_adapter_touches_only_layers_with_neurons(source: Path, tmp_path: Path) -> None:
    one = cna.Circuit((LAYERS, WIDTH), [cna.Neuron(1, 5, 1.0)])
    out = convert(one, source, tmp_path / "out", format="peft", quiet=True).path
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.1.mlp.down_proj"]
    assert config["r"] == config["lora_alpha"] == 1
    a = load_file(out / "adapter_model.safetensors")
    assert torch.equal(
        a["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"].nonzero(),
        torch.tensor([[0, 5]]),
    )


def test_note_says_which_rank_limit_to_raise(
    source: Path, circuit: cna.Circuit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--max-lora-rank 64" in rank_note(39) and "fits" in rank_note(16)
    assert "--max-lora-rank 320" in rank_note(300) and "format='hf'" in rank_note(513)
    done = convert(circuit, source, tmp_path / "out", format="peft")
    assert done.notes[0] in capsys.readouterr().err


# --- GGUF ---------------------------------------------------------------------------------------


def write_gguf_model(path: Path, kind: str, *, gated: bool = True, bias: bool = False) -> Path:
    """A tiny random Llama as GGUF, its matrices of one type."""
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(3)
    quant = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)

    def add(name: str, *shape: int, raw: bool = False) -> None:
        values = rng.normal(0, 0.2, shape).astype(np.float32)
        if raw or len(shape) == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, quant), raw_dtype=quant)

    add("token_embd.weight", VOCAB, HIDDEN, raw=True)
    add("output.weight", VOCAB, HIDDEN, raw=True)
    add("output_norm.weight", HIDDEN)
    for i in range(LAYERS):
        add(f"blk.{i}.attn_norm.weight", HIDDEN)
        add(f"blk.{i}.ffn_norm.weight", HIDDEN)
        for name, rows in (("q", HIDDEN), ("k", HIDDEN // 2), ("v", HIDDEN // 2)):
            add(f"blk.{i}.attn_{name}.weight", rows, HIDDEN)
        add(f"blk.{i}.attn_output.weight", HIDDEN, HIDDEN)
        if gated:
            add(f"blk.{i}.ffn_gate.weight", WIDTH, HIDDEN)
        add(f"blk.{i}.ffn_up.weight", WIDTH, HIDDEN)
        if bias:
            add(f"blk.{i}.ffn_up.bias", WIDTH)
        add(f"blk.{i}.ffn_down.weight", HIDDEN, WIDTH)
    return finished(writer, path)


def rows_by_layer(circuit: cna.Circuit) -> dict[int, list[int]]:
    out: dict[int, list[int]] = {}
    for neuron in circuit.neurons:
        out.setdefault(neuron.layer, []).append(neuron.index)
    return out


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "F16", "BF16", "F32"])
@pytest.mark.parametrize("multiplier", [0.0, -1.0, 2.0, 0.37])
def test_patched_gguf_scales_the_rows_and_nothing_else(
    circuit: cna.Circuit, tmp_path: Path, kind: str, multiplier: float
) -> None:
    gguf = pytest.importorskip("gguf")
    old = write_gguf_model(tmp_path / "old.gguf", kind)
    done = convert(circuit, old, tmp_path / "new.gguf", format="gguf", multiplier=multiplier)
    before, after = gguf.GGUFReader(old), gguf.GGUFReader(done.path)
    rows = rows_by_layer(circuit)
    data = bytearray(old.read_bytes())
    for a, b in zip(before.tensors, after.tensors, strict=True):
        if not a.name.endswith("ffn_up.weight"):
            continue
        x, y = (gguf.quants.dequantize(t.data, t.tensor_type) for t in (a, b))
        chosen = rows[int(a.name.split(".")[1])]
        # The product is rounded to the scale's (or the weight's) own precision.
        step = {"F32": 2.0**-23, "BF16": 2.0**-8}.get(kind, 2.0**-10)
        slack = step * np.abs(x).max() * abs(multiplier)
        assert np.abs(y[chosen] - multiplier * x[chosen]).max() <= slack
        if multiplier in (0.0, -1.0, 2.0):
            assert np.array_equal(y[chosen], multiplier * x[chosen])
        length = a.n_bytes // WIDTH
        for row in chosen:
            at = a.data_offset + row * length
            data[at : at + length] = done.path.read_bytes()[at : at + length]
    assert bytes(data) == done.path.read_bytes()  # every other byte is the same
    assert done.rounding <= 2.0**-8 if kind == "BF16" else done.rounding <= 2.0**-11


@pytest.mark.parametrize("kind", sorted(BLOCKS))
def test_every_block_type_is_linear_in_its_scales(kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    quant = gguf.GGMLQuantizationType[kind]
    size, places = BLOCKS[kind]
    assert gguf.GGML_QUANT_SIZES[quant][1] == size
    rng = np.random.default_rng(5)
    blocks = rng.integers(0, 256, (3, size), dtype=np.uint8)
    for place in places:
        scales = rng.normal(0, 0.02, (3, 1)).astype(np.float16)
        blocks[:, place : place + 2] = scales.view(np.uint8)
    old = gguf.quants.dequantize(blocks.reshape(1, -1), quant)
    for multiplier, error in ((0.0, 0.0), (-2.0, 0.0), (0.37, 2.0**-10)):
        raw, worst = scale_row(blocks.tobytes(), kind, multiplier)
        new = gguf.quants.dequantize(np.frombuffer(raw, np.uint8).reshape(1, -1), quant)
        assert np.abs(new - multiplier * old).max() <= error * np.abs(old).max() + 1e-7
        assert worst <= 2.0**-11


def test_rounding_is_measured_where_scales_are_tiny_or_too_large() -> None:
    tiny = np.array([2.4e-5], np.float16)
    raw, worst = scale_row(tiny.tobytes(), "F16", 0.3)
    exact = float(tiny[0]) * 0.3
    assert worst == abs(float(np.frombuffer(raw, np.float16)[0]) - exact) / exact > 2.0**-11
    assert scale_row(np.array([1.5], np.float32).tobytes(), "F32", 2.0)[1] == 0.0
    bf16 = torch.tensor([1.0], dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()
    assert scale_row(bf16, "BF16", 0.0)[1] == 0.0
    for kind, value in (
        ("F32", np.array([3e38], np.float32)),
        ("F16", np.array([6e4], np.float16)),
    ):
        assert scale_row(value.tobytes(), kind, 4.0)[1] == float("inf")


@pytest.mark.parametrize("multiplier", [0.0, -1.0, 2.0])
def test_patched_gguf_gives_the_logits_of_steering(
    circuit: cna.Circuit, tmp_path: Path, multiplier: float
) -> None:
    old = write_gguf_model(tmp_path / "old.gguf", "Q4_1")
    new = convert(circuit, old, tmp_path / "new.gguf", format="gguf", multiplier=multiplier).path

    def load(file: Path) -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name).eval()

    base = load(old)
    base.is_quantized = False
    cna.export(base, None, tmp_path / "export")
    expected = steered(cna.load(tmp_path / "export"), circuit, multiplier)
    assert_same(hf_logits(load(new)), expected)


def test_patched_gguf_scales_the_bias_of_ffn_up_too(circuit: cna.Circuit, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    old = write_gguf_model(tmp_path / "old.gguf", "Q8_0", bias=True)
    new = convert(circuit, old, tmp_path / "new.gguf", format="gguf", multiplier=0.0).path
    rows = rows_by_layer(circuit)
    for tensor in gguf.GGUFReader(new).tensors:
        if tensor.name.endswith("ffn_up.bias"):
            zero = np.flatnonzero(tensor.data == 0).tolist()
            assert zero == sorted(rows[int(tensor.name.split(".")[1])])


def test_gguf_adapter_is_the_difference_to_the_folded_weights(
    circuit: cna.Circuit, source: Path, model: cna.Model, tmp_path: Path
) -> None:
    gguf = pytest.importorskip("gguf")
    done = convert(circuit, source, tmp_path / "a.gguf", format="gguf-lora", multiplier=0.3)
    reader = gguf.GGUFReader(done.path)
    fields = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    assert fields["general.type"] == "adapter" and fields["adapter.type"] == "lora"
    assert fields["general.architecture"] == "llama"
    assert fields["adapter.lora.alpha"] == done.rank
    parts = {t.name: torch.from_numpy(t.data.copy()) for t in reader.tensors}
    adapted = AutoModelForCausalLM.from_pretrained(source)
    for layer in range(LAYERS):
        a, b = (parts[f"blk.{layer}.ffn_down.weight.lora_{x}"] for x in "ab")
        assert a.shape == (done.rank, WIDTH) and b.shape == (HIDDEN, done.rank)
        with torch.no_grad():
            adapted.model.layers[layer].mlp.down_proj.weight += b @ a
    assert_same(hf_logits(adapted), steered(model, circuit, 0.3))


def test_gguf_adapter_of_a_gguf_base_uses_its_own_weights(
    circuit: cna.Circuit, tmp_path: Path
) -> None:
    gguf = pytest.importorskip("gguf")
    base = write_gguf_model(tmp_path / "base.gguf", "Q4_0")
    done = convert(circuit, base, tmp_path / "a.gguf", format="gguf-lora", quiet=True)
    parts = {t.name: t.data for t in gguf.GGUFReader(done.path).tensors}
    for tensor in gguf.GGUFReader(base).tensors:
        if tensor.name.endswith("ffn_down.weight"):
            weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            total = weight + parts[f"{tensor.name}.lora_b"] @ parts[f"{tensor.name}.lora_a"]
            chosen = rows_by_layer(circuit)[int(tensor.name.split(".")[1])]
            assert not total[:, chosen].any()
            rest = np.setdiff1d(np.arange(WIDTH), chosen)
            assert np.array_equal(total[:, rest], weight[:, rest])


# --- control vectors and the authors' file ------------------------------------------------------


def test_control_vector_comes_back_in_the_layout_of_llama_cpp(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    vectors = {2: torch.randn(8), 1: torch.randn(8)}
    path = save_control_vector(vectors, tmp_path / "v.gguf", "llama")
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "llama"
    assert reader.fields["controlvector.layer_count"].contents() == 2
    assert [t.name for t in reader.tensors] == ["direction.1", "direction.2"]
    assert {t.tensor_type.name for t in reader.tensors} == {"F32"}
    back = load_control_vector(path)
    assert list(back) == [1, 2] and all(torch.equal(back[i], vectors[i]) for i in vectors)
    done = convert(vectors, "llama", tmp_path / "w.gguf", format="control-vector")  # type: ignore
    assert done.layers == (1, 2)
    assert load_control_vector(done.path).keys() == vectors.keys()
    from cna.steering import SteeringVector

    save_control_vector(SteeringVector(vectors), tmp_path / "s.gguf", "llama")
    with pytest.raises(ValueError, match="residual stream"):
        save_control_vector(SteeringVector(vectors, "mlp_output"), tmp_path / "t.gguf", "llama")


def test_authors_json_round_trip_keeps_every_delta(circuit: cna.Circuit, tmp_path: Path) -> None:
    path = write_authors_json(circuit, tmp_path / "c.json")
    data = json.loads(path.read_text())
    assert set(data) == {"neurons", "prompt", "target_token", "total_logit_diff"}
    first = circuit.neurons[0]
    assert data["neurons"][f"{first.layer},-1,{first.index}"] == first.delta
    assert read_authors_json(path, (LAYERS, WIDTH)).neurons == circuit.neurons


def test_authors_json_collapses_positions(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    neurons = {"1,4,7": 0.25, "1,5,7": -0.5, "0,5,2": 0.1}
    path.write_text(json.dumps({"neurons": neurons, "prompt": "Dallas", "target_token": "Austin"}))
    got = read_authors_json(path, (2, 8))
    assert [(n.layer, n.index, n.delta) for n in got.neurons] == [(1, 7, -0.5), (0, 2, 0.1)]
    assert got.provenance["prompt"] == "Dallas"


# --- errors -------------------------------------------------------------------------------------


def test_errors_are_one_clear_line(source: Path, circuit: cna.Circuit, tmp_path: Path) -> None:
    gguf_file = write_gguf_model(tmp_path / "m.gguf", "Q8_0")
    plain = write_gguf_model(tmp_path / "plain.gguf", "Q8_0", gated=False)
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + b"\0" * 64)
    empty = tmp_path / "empty"
    empty.mkdir()
    other = cna.Circuit((LAYERS, WIDTH + 1), [cna.Neuron(0, 0, 1.0)])
    deep = cna.Circuit((LAYERS + 1, WIDTH), [cna.Neuron(0, 0, 1.0)])
    out = tmp_path / "out"
    cases = [
        (circuit, source, "onnx", 0.0, ValueError, "one of the formats"),
        (circuit, source, "hf", float("nan"), ValueError, "finite multiplier"),
        (circuit, tmp_path / "nothing", "hf", 0.0, FileNotFoundError, "folder or id as source"),
        (circuit, empty, "hf", 0.0, FileNotFoundError, "without a readable config.json"),
        (circuit, gguf_file, "hf", 0.0, ValueError, "GGUF files take"),
        (circuit, 3, "hf", 0.0, ValueError, "got int"),
        (other, source, "hf", 0.0, ValueError, "3 down projections of 129 neurons"),
        (deep, source, "peft", 0.0, ValueError, "4 down projections of 128 neurons"),
        (other, gguf_file, "gguf", 0.0, ValueError, "129 neurons per layer"),
        (deep, gguf_file, "gguf-lora", 0.0, ValueError, "expected 4 layers"),
        (circuit, plain, "gguf", 0.0, ValueError, "expected a gated MLP"),
        (circuit, source, "gguf", 0.0, ValueError, "expected a GGUF file as source"),
        (circuit, gguf_file, "gguf", 1e9, ValueError, "overflow"),
        (circuit, tmp_path / "no.gguf", "gguf", 0.0, FileNotFoundError, "found none"),
        (circuit, damaged, "gguf", 0.0, ValueError, "whole GGUF file"),
        ("circuit", source, "hf", 0.0, ValueError, "expected a Circuit, got str"),
        ({0: torch.ones(4)}, "llama", "control-vector", 0.0, ValueError, "layers from 1 on"),
        ({1: torch.ones(4)}, "llama", "control-vector", 0.5, ValueError, "no multiplier"),
        ({}, "llama", "control-vector", 0.0, ValueError, "an empty one"),
        (
            {1: torch.ones(4), 2: torch.ones(5)},
            "llama",
            "control-vector",
            0.0,
            ValueError,
            "length",
        ),
    ]
    before = sorted(tmp_path.iterdir())
    for what, where, kind, multiplier, error, text in cases:
        with pytest.raises(error) as caught:
            convert(what, where, out, format=kind, multiplier=multiplier)  # type: ignore[arg-type]
        assert text in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)
        assert sorted(tmp_path.iterdir()) == before, kind


def test_damaged_and_missing_weights_are_named(circuit: cna.Circuit, tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    llama().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in weights.items() if "down_proj" not in k}
    save_file(kept, folder / "model.safetensors")
    with pytest.raises(ValueError, match="expected down projections"):
        convert(circuit, folder, tmp_path / "out")
    ints = {k: v.to(torch.int8) if "down" in k else v for k, v in weights.items()}
    save_file(ints, folder / "model.safetensors")
    with pytest.raises(ValueError, match="expected float weights, got I8"):
        convert(circuit, folder, tmp_path / "out")
    whole = bytearray((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").write_bytes(whole[:-4])
    with pytest.raises(ValueError, match="damaged header"):
        convert(circuit, folder, tmp_path / "out")
    (folder / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError, match="damaged header"):
        convert(circuit, folder, tmp_path / "out")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="found neither"):
        convert(circuit, folder, tmp_path / "out")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "missing.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=r"expected weights in .*missing\.safetensors"):
        convert(circuit, folder, tmp_path / "out")
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(ValueError, match="plain file names"):
        convert(circuit, folder, tmp_path / "out")


def test_pattern_finds_down_projections_of_unusual_names(
    circuit: cna.Circuit, tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "odd"}')
    weights = {f"net.{i}.block.out.weight": torch.ones(HIDDEN, WIDTH) for i in range(LAYERS)}
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match="pass pattern="):
        convert(circuit, folder, tmp_path / "out")
    with pytest.raises(ValueError, match="regular expression"):
        convert(circuit, folder, tmp_path / "out", pattern="(")
    out = convert(circuit, folder, tmp_path / "out", pattern=r"block\.out$").path
    after = load_file(out / "model.safetensors")
    assert sum(int((w[0] == 0).sum()) for w in after.values()) == len(circuit)


def test_unsupported_quantisation_is_refused(
    circuit: cna.Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cna.convert import gguf_patch

    file = write_gguf_model(tmp_path / "m.gguf", "Q8_0")
    monkeypatch.delitem(gguf_patch.BLOCKS, "Q8_0")
    with pytest.raises(ValueError, match=r"got Q8_0; requantise the model"):
        convert(circuit, file, tmp_path / "out.gguf", format="gguf")


def test_missing_package_names_the_command(
    circuit: cna.Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(RuntimeError, match=r"pip install gguf$"):
        convert(circuit, tmp_path / "x.gguf", tmp_path / "out.gguf", format="gguf")


def test_files_in_the_way_stay(source: Path, circuit: cna.Circuit, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="expected no files at"):
            convert(circuit, source, folder, overwrite=overwrite)
    out = convert(circuit, source, tmp_path / "out").path
    with pytest.raises(ValueError, match="expected no files at"):
        convert(circuit, source, out)
    convert(circuit, source, out, multiplier=2.0, overwrite=True)
    assert json.loads((out / "cna_conversion.json").read_text())["multiplier"] == 2.0
    path = write_authors_json(circuit, tmp_path / "c.json")
    with pytest.raises(ValueError, match="expected no file at"):
        write_authors_json(circuit, path)
    write_authors_json(circuit, path, overwrite=True)
    file = write_gguf_model(tmp_path / "m.gguf", "Q8_0")
    with pytest.raises(ValueError, match="another file than the source"):
        convert(circuit, file, file, format="gguf", overwrite=True)
    with pytest.raises(RuntimeError, match="expected to write"):
        convert(circuit, source, tmp_path / "c.json" / "below")


def test_authors_json_errors(tmp_path: Path, circuit: cna.Circuit) -> None:
    path = tmp_path / "c.json"
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_authors_json(path, (2, 8))
    path.write_text("not json")
    with pytest.raises(ValueError, match="expected JSON"):
        read_authors_json(path, (2, 8))
    for bad in ({"neurons": {"1,2": 0.5}}, {"neurons": [1]}, {"neurons": {"1,0,2": "x"}}, [1]):
        path.write_text(json.dumps(bad))
        with pytest.raises(ValueError, match="layer,position,neuron"):
            read_authors_json(path, (2, 8))
    write_authors_json(circuit, path, overwrite=True)
    with pytest.raises(IndexError, match="inside 1 x 128"):
        read_authors_json(path, (1, WIDTH))


# --- the default model --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2_circuit(smollm2: cna.Model) -> cna.Circuit:
    rng = np.random.default_rng(2)
    late = [cna.Neuron(29, int(i), 1.0) for i in rng.choice(1536, 30, replace=False)]
    rest = [cna.Neuron(int(i), int(rng.integers(1536)), 0.5) for i in rng.choice(29, 16, False)]
    return cna.Circuit((30, 1536), late + rest)


@pytest.mark.smollm2
@pytest.mark.parametrize(
    "format",
    ["gguf", *(pytest.param(f, marks=pytest.mark.nightly) for f in ("hf", "peft", "gguf-lora"))],
)
def test_default_model_in_every_format_gives_the_logits_of_steering(
    smollm2: cna.Model, smollm2_circuit: cna.Circuit, tmp_path: Path, format: str
) -> None:
    gguf = pytest.importorskip("gguf")
    out = tmp_path / ("out.gguf" if "gguf" in format else "out")
    multiplier = -1.0
    convert(smollm2_circuit, "smollm2", out, format=format, multiplier=multiplier, quiet=True)
    from cna.loading import load_hf

    if format == "hf":
        consumer = AutoModelForCausalLM.from_pretrained(out)
    elif format == "peft":
        consumer = with_adapter(load_hf("smollm2")[0], out)
    elif format == "gguf":
        consumer = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=out.name)
    else:
        consumer = load_hf("smollm2")[0]
        parts = {t.name: torch.from_numpy(t.data.copy()) for t in gguf.GGUFReader(out).tensors}
        with torch.no_grad():
            for name in {n.rsplit(".", 1)[0] for n in parts}:
                weight = consumer.model.layers[int(name.split(".")[1])].mlp.down_proj.weight
                weight += parts[f"{name}.lora_b"] @ parts[f"{name}.lora_a"]
    assert_same(hf_logits(consumer.eval()), steered(smollm2, smollm2_circuit, multiplier))
