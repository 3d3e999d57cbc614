"""Sources of `convert`: opened from GGUF, quantised, of other names inside, with files beside them."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import cna
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
)

LAYERS, WIDTH, HIDDEN, VOCAB = 3, 128, 64, 96
PROMPTS = [[1, 5, 9, 40, 2], [7, 7, 30]]
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}


def llama(**more: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, **more)).eval()


@pytest.fixture
def circuit() -> cna.Circuit:
    rng = np.random.default_rng(1)
    flat = rng.choice(LAYERS * WIDTH, size=20, replace=False)
    neurons = [cna.Neuron(int(i // WIDTH), int(i % WIDTH), 1.0) for i in flat]
    return cna.Circuit((LAYERS, WIDTH), neurons)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([model(input_ids=torch.tensor([p])).logits[0, -1] for p in PROMPTS])


def zeroed(model: Any, circuit: cna.Circuit, stem: str) -> torch.Tensor:
    """Logits with the circuit's columns set to nought by hand."""
    model = copy.deepcopy(model)
    for n in circuit.neurons:
        model.get_submodule(stem.format(n.layer)).weight.data[:, n.index] = 0
    return logits(model)


def with_adapter(base: Any, folder: Path) -> Any:
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return peft.PeftModel.from_pretrained(copy.deepcopy(base), folder)


def test_what_lies_beside_the_weights_survives_folding(
    circuit: cna.Circuit, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    llama().save_pretrained(source)
    kept = {
        "tokenizer.bin": b"no weights",
        "vocab.bpe": b"a b",
        "LICENSE": b"free",
        "additional_chat_templates/tool.jinja": b"{{ x }}",
        "assets/deep/logo.png": b"\x89PNG",
    }
    dropped = ["pytorch_model.bin", "original/consolidated.00.pth", "model.gguf"]
    dropped += ["adapter_model.safetensors", ".git/config", "pytorch_model.bin.index.json"]
    for name in (*kept, *dropped):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(kept.get(name, b"x"))
    done = cna.convert(circuit, source, tmp_path / "out", quiet=True)
    for name, content in kept.items():
        assert (tmp_path / "out" / name).read_bytes() == content, name
    assert not [name for name in dropped if (tmp_path / "out" / name).exists()]
    (note,) = [n for n in done.notes if n.startswith("left out, not steered: ")]
    assert all((name in note) is (not name.startswith(".git")) for name in dropped)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors", "fp8"])
def test_a_quantised_checkpoint_is_called_so(
    circuit: cna.Circuit, tmp_path: Path, method: str
) -> None:
    """Each quantiser's own names, shapes and types of a down projection."""
    source = tmp_path / "source"
    llama().save_pretrained(source)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method}
    (source / "config.json").write_text(json.dumps(config))
    tensors = load_file(source / "model.safetensors")
    for name in [n for n in tensors if n.endswith("down_proj.weight")]:
        weight = tensors.pop(name)
        if method in ("gptq", "awq"):
            stem = name.removesuffix("weight")
            tensors[stem + "qweight"] = torch.zeros(WIDTH // 8, HIDDEN, dtype=torch.int32)
            tensors[stem + "scales"] = torch.ones(1, HIDDEN, dtype=torch.float16)
        elif method == "bitsandbytes":
            tensors[name] = torch.zeros(WIDTH * HIDDEN // 2, 1, dtype=torch.uint8)
        elif method == "fp8":
            tensors[name] = weight.to(torch.float8_e4m3fn)
        else:
            tensors[name + "_packed"] = torch.zeros(HIDDEN, WIDTH // 8, dtype=torch.int32)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    for form in ("hf", "peft", "gguf-lora"):
        with pytest.raises(ValueError, match=f"quantised by {method}; convert the checkpoint"):
            cna.convert(circuit, source, tmp_path / form, format=form, quiet=True)


def test_layers_that_a_quantiser_left_alone_are_folded(
    circuit: cna.Circuit, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    llama().save_pretrained(source)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "modules_to_not_convert": ["mlp"]}
    (source / "config.json").write_text(json.dumps(config))
    cna.convert(circuit, source, tmp_path / "out", quiet=True)
    got = load_file(tmp_path / "out" / "model.safetensors")
    first = circuit.neurons[0]
    weight = got[f"model.layers.{first.layer}.mlp.down_proj.weight"]
    assert (weight[:, first.index] == 0).all()


def gemma3() -> Any:
    torch.manual_seed(0)
    text = {**SIZES, "head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=1, image_token_index=95
    )
    return Gemma3ForConditionalGeneration(config).eval()


def llava() -> Any:
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=32,
    )
    config = LlavaConfig(text_config=LlamaConfig(**SIZES), vision_config=vision)
    config.image_token_index = config.image_token_id = 95
    return LlavaForConditionalGeneration(config).eval()


@pytest.mark.parametrize("build", [gemma3, llava])
@pytest.mark.parametrize("from_folder", [True, False])
def test_an_adapter_names_modules_where_the_checkpoint_has_other_names(
    build: Any, from_folder: bool, circuit: cna.Circuit, tmp_path: Path
) -> None:
    hf = build()
    hf.save_pretrained(tmp_path / "source")
    stored = load_file(tmp_path / "source" / "model.safetensors")
    modules = {name for name, _ in hf.named_modules()}
    downs = [n.removesuffix(".weight") for n in stored if n.endswith("down_proj.weight")]
    assert len(downs) == LAYERS and not set(downs) & modules  # the names differ
    source = tmp_path / "source" if from_folder else hf
    cna.convert(circuit, source, tmp_path / "adapter", format="peft", quiet=True)
    adapted = with_adapter(hf, tmp_path / "adapter")
    expected = zeroed(hf, circuit, "model.language_model.layers.{}.mlp.down_proj")
    assert not torch.allclose(expected, logits(hf), atol=1e-3)
    torch.testing.assert_close(logits(adapted), expected, rtol=1e-4, atol=1e-4)


def test_a_model_opened_from_gguf_is_folded_and_adapted(tmp_path: Path) -> None:
    from cna.hosts.hugging_face import smollm2_source

    folder, file = smollm2_source()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hf = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file).eval()
    neurons = [cna.Neuron(29, j, 1.0) for j in (3, 99, 700)]
    one = cna.Circuit((30, 1536), neurons)
    before = copy.copy(vars(hf)), copy.copy(vars(hf.config))
    cna.convert(one, hf, tmp_path / "folded", quiet=True)
    cna.convert(one, hf, tmp_path / "adapter", format="peft", quiet=True)
    assert (vars(hf).keys(), vars(hf.config).keys()) == (before[0].keys(), before[1].keys())
    expected = zeroed(hf, one, "model.layers.{}.mlp.down_proj")
    folded = AutoModelForCausalLM.from_pretrained(tmp_path / "folded", dtype=hf.dtype).eval()
    for got in (folded, with_adapter(hf, tmp_path / "adapter")):
        torch.testing.assert_close(logits(got), expected, rtol=1e-3, atol=1e-3)
