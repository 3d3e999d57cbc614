"""Live models on one device, spread, offloaded or quantised equal plain hooks."""

from __future__ import annotations

import copy
import gc
import importlib.util
import threading
from pathlib import Path
from typing import Any

import cna
import pytest
import torch
import transformers
from conftest import (
    FAMILIES,
    HEADS,
    IDS,
    LONG,
    PROMPTS,
    SMALL,
    down_projections,
    make_hf,
    make_tokenizer,
)
from live_oracle import close, equals_plain_hooks, last_logits

LAYERS = [f"model.layers.{i}" for i in range(4)]


def test_a_live_model_stays_its_owners() -> None:
    hf = copy.deepcopy(make_hf("llama"))
    ids = torch.arange(9)[None]
    before = hf(ids).logits
    model = cna.live(hf, make_tokenizer())
    circuit = cna.discover(model, PROMPTS[:4], PROMPTS[4:], k=9, universal=None)
    with model.steer(circuit, 0.0):
        model.generate(PROMPTS[:2], max_new_tokens=2)
        assert torch.equal(hf(ids).logits, before)


def test_known_families_keep_their_cache_in_bfloat16() -> None:
    """In float32: test_hosts.py."""
    lost = [
        family
        for family in FAMILIES
        if not cna.live(copy.deepcopy(make_hf(family, torch.bfloat16)), None).core.has_cache
    ]
    assert lost == []


def test_a_live_model_without_a_down_projection_is_refused() -> None:
    with pytest.raises(ValueError, match="found none among"):
        cna.live(copy.deepcopy(make_hf("llama")), None, pattern="no_such_layer")


def test_what_live_does_not_take_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"live: expected one MLP in each block, .*0\.mlp\.down_proj' behind '"
    ):
        cna.live(copy.deepcopy(make_hf("llama")), None, pattern=r"mlp\.(down|up)_proj$")
    with pytest.raises(ValueError, match="live: expected a linear down projection, got SiLU"):
        cna.live(copy.deepcopy(make_hf("llama")), None, pattern=r"mlp\.act_fn$")
    with pytest.raises(ValueError, match="live: expected a transformers causal language model"):
        cna.live(torch.nn.Linear(2, 2), None)
    with torch.device("meta"):
        empty = transformers.LlamaForCausalLM(make_hf("llama").config)
    with pytest.raises(
        ValueError, match="live: expected a model with weights, got one on the meta"
    ):
        cna.live(empty, None)


def test_a_split_that_is_not_known_is_one_clear_error() -> None:
    """A library of its own hands half of the neurons to a down projection that says it takes all."""

    class Half(torch.nn.Module):
        in_features = 64

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.repeat(1, 1, 1)[..., :32]

    hf = copy.deepcopy(make_hf("llama"))
    for layer in hf.model.layers:
        layer.mlp.down_proj, layer.mlp.act_fn = Half(), torch.nn.GLU()
        layer.mlp.up_proj = torch.nn.Linear(32, 32)
    with pytest.raises(
        RuntimeError, match=r"neuron activations of layer 0 as \[\d+, \d+, 64\], got \[.* 32\]"
    ):
        cna.live(hf, None)
    assert not any(m._forward_pre_hooks for m in hf.modules())


# --- device_map -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hf")
    make_hf("llama").save_pretrained(path)
    return path


def spread(saved: Path, folder: Path, first: str, second: str) -> Any:
    """The saved model with its second half elsewhere."""
    places = {"model.embed_tokens": first, "model.rotary_emb": first}
    places |= {name: first if i < 2 else second for i, name in enumerate(LAYERS)}
    places |= {"model.norm": second, "lm_head": second}
    return transformers.AutoModelForCausalLM.from_pretrained(
        saved, device_map=places, offload_folder=folder
    )


@pytest.mark.parametrize("hooks_first", [False, True])
def test_a_model_offloaded_by_device_map_is_the_model(
    saved: Path, tmp_path: Path, hooks_first: bool
) -> None:
    hf = make_hf("llama")
    if hooks_first:  # accelerate's hooks come after ours
        from accelerate import dispatch_model

        part = transformers.AutoModelForCausalLM.from_pretrained(saved)
        model = cna.live(part, make_tokenizer())
        dispatch_model(part, dict.fromkeys(["model", "lm_head"], "disk"), offload_dir=tmp_path)
    else:
        part = spread(saved, tmp_path, "cpu", "disk")
        assert part.model.layers[3].mlp.down_proj.weight.device.type == "meta"
        model = cna.live(part, make_tokenizer())
    assert model.device.type == "cpu" and model.core.has_cache
    equals_plain_hooks(model, hf, down_projections(hf))
    assert part.model.layers[3].mlp.down_proj.weight.device.type == "meta"  # still offloaded
    assert torch.equal(part(torch.arange(9)[None]).logits, hf(torch.arange(9)[None]).logits)


@pytest.mark.parametrize("offload", ["cpu_offload", "disk_offload"])
def test_an_offloaded_model_is_the_model(offload: str, saved: Path, tmp_path: Path) -> None:
    import accelerate

    hf = make_hf("llama")
    part = transformers.AutoModelForCausalLM.from_pretrained(saved)
    where = {"offload_dir": tmp_path} if offload == "disk_offload" else {}
    getattr(accelerate, offload)(part, execution_device=torch.device("cpu"), **where)
    assert part.get_input_embeddings().weight.device.type == "meta"
    equals_plain_hooks(cna.live(part, make_tokenizer()), hf, down_projections(hf))


def test_the_weights_hash_reads_offloaded_weights(saved: Path, tmp_path: Path) -> None:
    whole = cna.live(copy.deepcopy(make_hf("llama")), None)
    part = cna.live(spread(saved, tmp_path, "cpu", "disk"), None)
    assert part.core.weights_hash == whole.core.weights_hash != ""


def test_a_dispatched_model_stays_where_it_is(saved: Path, tmp_path: Path) -> None:
    model = cna.live(spread(saved, tmp_path, "cpu", "disk"), None)
    with pytest.raises(
        ValueError, match=r"Model.to: expected a model in one place, .* by device_map"
    ):
        model.to("cpu")


def test_each_layers_cache_lies_on_its_device() -> None:
    seen: list[list[str]] = []

    def forward(ids: Any, mask: Any, _: Any, keep: Any, places: Any, cache: Any, taps: Any) -> Any:
        seen.append([t.device.type for t in cache])
        assert places.tolist() == list(range(mask.shape[1]))[-ids.shape[1] :]
        assert all(
            t.shape == (len(ids), 2, mask.shape[1], dim)
            for t, dim in zip(cache, [8, 4, 8, 4], strict=True)
        )
        return torch.arange(9.0).expand(len(ids), len(keep), 9)

    info = {
        **{"model_id": "x", "weights_hash": "", "widths": [4, 4], "hidden_size": 2},
        **{"vocab_size": 9, "max_positions": 0, "dtype": torch.float32, "device": "cpu"},
        **{"eos_token_ids": [], "neuron_sites": ["a", "b"], "residual_sites": False},
        **{"cache": [(2, 8, 4)] * 2, "cache_devices": ["cpu", "meta"]},
    }
    core = cna._core.Model.live(info, forward, lambda _: None)
    core.generate([[1, 2, 3], [1, 2, 4], [1, 2]], max_new_tokens=3)  # with a shared prefix
    assert seen == [["cpu", "cpu", "meta", "meta"]] * len(seen) and len(seen) == 4


@pytest.mark.cuda
def test_a_model_over_two_devices_is_the_model(saved: Path) -> None:
    from accelerate import dispatch_model

    hf = make_hf("llama")
    part = transformers.AutoModelForCausalLM.from_pretrained(saved)
    places: dict[str, Any] = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu"}
    places |= {name: "cpu" if i < 2 else 0 for i, name in enumerate(LAYERS)}
    places |= {"model.norm": 0, "lm_head": 0}
    dispatch_model(part, places, main_device="cpu", skip_keys=part._skip_keys_device_placement)
    assert part.model.layers[3].mlp.down_proj.weight.device.type == "cuda"
    model = cna.live(part, make_tokenizer())
    assert model.device.type == "cpu" and model.core.has_cache
    equals_plain_hooks(model, hf, down_projections(hf), tolerance=1e-3)


# --- quantised --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4-bit kernels take blocks of 64 weights."""
    path = tmp_path_factory.mktemp("wide")
    sizes = SMALL | {"hidden_size": 64, "intermediate_size": 128}
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**sizes, **HEADS, **IDS, **LONG)
    ).save_pretrained(path)
    return path


def quantised(kind: str, path: Path) -> Any:
    package = {"quanto": "optimum.quanto", "torchao": "torchao"}.get(kind, "bitsandbytes")
    if importlib.util.find_spec(package.split(".")[0]) is None:
        pytest.skip(f"no {package}")
    if kind == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        config: Any = transformers.TorchAoConfig(Int8WeightOnlyConfig())
    elif kind == "quanto":
        config = transformers.QuantoConfig(weights="int8")
    else:
        config = transformers.BitsAndBytesConfig(
            load_in_8bit=kind == "bnb-int8",
            load_in_4bit=kind == "bnb-nf4",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.float32,
        )
    return transformers.AutoModelForCausalLM.from_pretrained(
        path, quantization_config=config, device_map="cpu"
    )


@pytest.mark.parametrize("kind", ["quanto", "torchao", "bnb-int8", "bnb-nf4"])
def test_a_quantised_model_equals_its_own_plain_hooks(kind: str, wide: Path) -> None:
    hf = quantised(kind, wide)
    downs = down_projections(hf)
    exact = last_logits(transformers.AutoModelForCausalLM.from_pretrained(wide), [[1, 2, 3]])
    assert not close(last_logits(hf, [[1, 2, 3]]), exact, 1e-4)  # it is quantised
    model = cna.live(hf, make_tokenizer())
    assert model.core.has_cache
    # bitsandbytes' int8 rounds activations, so a 1e-7 before it may become a step after it.
    equals_plain_hooks(model, hf, downs, tolerance=0.02 if kind == "bnb-int8" else 1e-4)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_a_model_whose_numbers_depend_on_the_batch_runs_one_prompt_at_a_time() -> None:
    """Dynamic int8 chooses one scale for all activations of a pass."""
    hf = torch.ao.quantization.quantize_dynamic(
        copy.deepcopy(make_hf("llama")), {torch.nn.Linear}, dtype=torch.qint8
    )
    model = cna.live(hf, make_tokenizer())
    assert not model.core.has_cache and "one prompt at a time" in repr(model)
    equals_plain_hooks(model, hf, down_projections(hf), tolerance=1e-6)


def test_the_owners_calls_on_another_thread_are_not_steered() -> None:
    hf = copy.deepcopy(make_hf("llama"))
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        expected = hf(ids).logits
    model = cna.live(hf, make_tokenizer())
    circuit = cna.discover(model, PROMPTS[:4], PROMPTS[4:], k=9, universal=None)
    stop = threading.Event()
    seen: list[bool] = []

    def owner() -> None:
        while not stop.is_set():
            with torch.inference_mode():
                seen.append(torch.allclose(hf(ids).logits, expected, atol=1e-5))

    thread = threading.Thread(target=owner)
    thread.start()
    with model.steer(circuit, -1.0):
        model.generate(PROMPTS, max_new_tokens=30)
    stop.set()
    thread.join()
    assert len(seen) > 1 and all(seen)


def test_hooks_leave_with_the_model() -> None:
    """Ours: transformers leaves some of its own once a model was asked for hidden states."""
    hf = copy.deepcopy(make_hf("llama"))

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in hf.modules())

    before = hooks()
    model = cna.live(hf, make_tokenizer())
    assert hooks() == before + 3 * 4  # three sites in each of four layers
    del model
    gc.collect()
    assert hooks() == before


def test_models_of_one_commit_are_told_apart() -> None:
    """A weight edited in place, or merged from an adapter, keeps the commit of its source."""
    hf = copy.deepcopy(make_hf("llama"))
    hf.config._commit_hash = "abc"
    before = cna.live(hf, None)
    assert before.core.weights_hash == "abc"
    assert before.identity == cna.live(hf, None).identity
    with torch.no_grad():
        hf.model.layers[1].mlp.down_proj.weight.mul_(1.01)
    assert before.identity != cna.live(hf, None).identity
