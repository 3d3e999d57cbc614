"""Circuits of mixtures of experts in GGUF files: patched, and as adapters, against steering."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cna
import numpy as np
import pytest
import torch
from conftest import random_ids
from gguf_writing import finished
from live_oracle import close
from mixtures import mixture
from transformers import AutoModelForCausalLM

gguf = pytest.importorskip("gguf")
PROMPTS = random_ids([3, 7, 12, 5, 9, 4], seed=3)
WIDTH, SHARED = 32, 64


def model_of(kind: str) -> Any:
    return mixture(kind, moe_intermediate_size=WIDTH, shared_expert_intermediate_size=SHARED)


def write(hf: Any, path: Path, quant: str = "F32", arch: str = "") -> Path:
    """A mixture of Qwen's as GGUF, its experts in one type."""
    kind = gguf.GGMLQuantizationType[quant]
    config = hf.config
    arch = arch or {"qwen3_moe": "qwen3moe", "qwen2_moe": "qwen2moe"}[config.model_type]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(WIDTH)

    def add(name: str, tensor: torch.Tensor, quantised: bool = False) -> None:
        values = np.ascontiguousarray(tensor.detach().float().numpy())
        if quantised and quant != "F32":
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)

    add("token_embd.weight", hf.model.embed_tokens.weight)
    add("output.weight", hf.lm_head.weight)
    add("output_norm.weight", hf.model.norm.weight)
    for i, block in enumerate(hf.model.layers):
        add(f"blk.{i}.attn_norm.weight", block.input_layernorm.weight)
        add(f"blk.{i}.ffn_norm.weight", block.post_attention_layernorm.weight)
        for short in ("q", "k", "v"):
            part = getattr(block.self_attn, f"{short}_proj")
            add(f"blk.{i}.attn_{short}.weight", part.weight)
            if part.bias is not None:
                add(f"blk.{i}.attn_{short}.bias", part.bias)
            if hasattr(block.self_attn, f"{short}_norm"):
                norm = getattr(block.self_attn, f"{short}_norm")
                add(f"blk.{i}.attn_{short}_norm.weight", norm.weight)
        add(f"blk.{i}.attn_output.weight", block.self_attn.o_proj.weight)
        mlp = block.mlp
        add(f"blk.{i}.ffn_gate_inp.weight", mlp.gate.weight)
        gate, up = mlp.experts.gate_up_proj.chunk(2, dim=1)
        add(f"blk.{i}.ffn_gate_exps.weight", gate, True)
        add(f"blk.{i}.ffn_up_exps.weight", up, True)
        add(f"blk.{i}.ffn_down_exps.weight", mlp.experts.down_proj, True)
        if hasattr(mlp, "shared_expert"):
            add(f"blk.{i}.ffn_gate_inp_shexp.weight", mlp.shared_expert_gate.weight[0])
            for part in ("gate", "up", "down"):
                weight = getattr(mlp.shared_expert, f"{part}_proj").weight
                add(f"blk.{i}.ffn_{part}_shexp.weight", weight, True)
    return finished(writer, path)


def circuit_of(hf: Any) -> tuple[cna.Model, cna.Circuit]:
    model = cna.live(hf, None)
    found = cna.discover(model, PROMPTS[:3], PROMPTS[3:], k=24, universal=None, progress=False)
    return model, found


def logits(hf: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([hf(torch.tensor([p])).logits[0, -1] for p in PROMPTS])


def weights(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a file, as float32 in the order of PyTorch's dimensions."""
    return {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors
    }


def rows(circuit: cna.Circuit, name: str) -> list[int]:
    """Rows of an `ffn_up` tensor, counted over all experts, that hold neurons of the circuit."""
    layer = int(name.split(".")[1])
    count, width = circuit.experts[layer]
    own = [n.index for n in circuit if n.layer == layer]
    if "_exps" in name:
        return sorted(j for j in own if j < count * width)
    return sorted(j - count * width for j in own if j >= count * width)


@pytest.mark.parametrize("multiplier", [0.0, -0.5])
def test_a_patched_mixture_gives_the_logits_of_steering(tmp_path: Path, multiplier: float) -> None:
    hf = model_of("qwen3_moe")
    old = write(hf, tmp_path / "old.gguf")
    model, circuit = circuit_of(hf)
    new = cna.convert(
        circuit, old, tmp_path / "new.gguf", format="gguf", multiplier=multiplier, quiet=True
    )

    def load(file: Path) -> Any:
        # Its reader leaves out the experts' width.
        options = {"gguf_file": file.name, "config": hf.config}
        return AutoModelForCausalLM.from_pretrained(tmp_path, **options).eval()

    assert close(logits(load(old)), logits(hf), 1e-5)  # the file is that model
    with model.steer(circuit, multiplier):
        assert close(logits(load(new.path)), model.logits(PROMPTS), 1e-4)
    assert not close(logits(load(new.path)), logits(hf), 1e-3)


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_0"])
def test_only_the_rows_of_the_circuits_neurons_change(tmp_path: Path, quant: str) -> None:
    hf = model_of("qwen2_moe")
    old = write(hf, tmp_path / "old.gguf", quant)
    _, circuit = circuit_of(hf)
    done = cna.convert(
        circuit, old, tmp_path / "new.gguf", format="gguf", multiplier=-1.0, quiet=True
    )
    before, after = weights(old), weights(done.path)
    touched = 0
    for name, x in before.items():
        expected = x.copy()
        if "ffn_up_" in name:
            own = rows(circuit, name)
            expected.reshape(-1, x.shape[-1])[own] *= -1
            touched += len(own)
        assert np.array_equal(after[name], expected), name
    assert touched == len(circuit)
    assert any(rows(circuit, f"blk.{i}.ffn_up_shexp.weight") for i in range(len(hf.model.layers)))


@pytest.mark.parametrize("base", ["gguf", "hf"])
def test_an_adapter_is_the_difference_to_the_steered_weights(tmp_path: Path, base: str) -> None:
    """As llama.cpp applies it: to each expert its own A and B."""
    hf = model_of("qwen2_moe")
    model, circuit = circuit_of(hf)
    if base == "gguf":
        source: Any = write(hf, tmp_path / "old.gguf")
    else:
        hf.save_pretrained(tmp_path / "hf")
        source = tmp_path / "hf"
    done = cna.convert(
        circuit, source, tmp_path / "a.gguf", format="gguf-lora", multiplier=0.25, quiet=True
    )
    found = weights(done.path)
    assert {name.rpartition(".")[2] for name in found} == {"lora_a", "lora_b"}
    assert all(a.shape[-2] == done.rank for name, a in found.items() if name.endswith("a"))
    for name, a in found.items():
        if not name.endswith(".lora_a"):
            continue
        b = found[name.replace("lora_a", "lora_b")]
        mlp = hf.model.layers[int(name.split(".")[1])].mlp
        weight = mlp.experts.down_proj if "_exps" in name else mlp.shared_expert.down_proj.weight
        assert a.ndim == weight.dim()
        weight.data += torch.from_numpy(b @ a)
    with model.steer(circuit, 1.0):  # the live host reads the module's weights as they are now
        assert close(model.logits(PROMPTS), logits(hf), 1e-5)
    fresh, _ = circuit_of(model_of("qwen2_moe"))
    with fresh.steer(circuit, 0.25):
        assert close(logits(hf), fresh.logits(PROMPTS), 1e-4)


def test_what_cannot_be_patched_is_refused(tmp_path: Path) -> None:
    hf = model_of("qwen3_moe")
    _, circuit = circuit_of(hf)
    old = write(hf, tmp_path / "old.gguf")

    def refused(what: cna.Circuit, source: Path, match: str, format: str = "gguf") -> None:
        with pytest.raises(ValueError, match=match):
            cna.convert(what, source, tmp_path / "out.gguf", format=format, quiet=True)
        assert not (tmp_path / "out.gguf").exists()

    other = cna.Circuit(circuit.shape, circuit.neurons, experts=[(2, 64)] * circuit.shape[0])
    refused(other, old, r"expected 2 experts in layer 0 for this circuit, got 4")
    dense = cna.Circuit(circuit.shape, circuit.neurons)
    refused(dense, old, r"expected the tensor 'blk.0.ffn_up.weight'.*no dense MLP")
    refused(dense, old, r"expected the tensor 'blk.0.ffn_down.weight'", "gguf-lora")
    clamped = write(hf, tmp_path / "clamped.gguf", arch="gpt-oss")
    refused(circuit, clamped, r"linear in ffn_up.*use format='gguf-lora'")
    refused(circuit, old, r"vLLM does not serve; use format='hf', 'gguf' or", "peft")
