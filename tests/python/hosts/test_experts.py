"""Mixtures of experts on the live host against plain modules, and against dense layers built by hand."""

from __future__ import annotations

import copy
import gc
from pathlib import Path
from typing import Any

import cna
import experts_oracle
import numpy as np
import pytest
import torch
import transformers
from conftest import IDS, LONG, SMALL, make_tokenizer, needs_recent, random_ids
from live_oracle import close, greedy
from mixtures import KINDS, RECENT, mixture

PROMPT_IDS = random_ids([3, 7, 12, 5, 9, 4], seed=3)
K = 24
kinds = pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=needs_recent if k in RECENT else ()) for k in KINDS]
)


def parts(hf: Any) -> list[tuple[int, str, Any]]:
    """(layer, name, module) of each part of each MLP, routed experts before what every token sees."""
    return [
        (layer, name, module)
        for layer, block in enumerate(hf.model.layers)
        for name, module in experts_oracle.parts(block)
    ]


def plain(hf: Any, ids: list[list[int]]) -> list[list[np.ndarray]]:
    """Neurons [layers][prompts, width] of the plain module, one prompt at a time."""
    seen: dict[str, list[np.ndarray]] = {}

    def before(key: str, m: Any) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            row = experts_oracle.last_token(m, (*args, *kwargs.values()))
            seen.setdefault(key, []).append(row)

        return hook

    hooks = [
        m.register_forward_pre_hook(before(f"{layer} {name}", m), with_kwargs=True)
        for layer, name, m in parts(hf)
    ]
    last_logits(hf, ids)
    for hook in hooks:
        hook.remove()
    out = []
    for layer in range(len(hf.model.layers)):
        rows = [seen[f"{layer} {name}"] for at, name, _ in parts(hf) if at == layer]
        out.append([np.concatenate(row) for row in zip(*rows, strict=True)])
    return out


def last_logits(hf: Any, ids: list[list[int]]) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([hf(torch.tensor([p])).logits[0, -1] for p in ids])


def folded(hf: Any, circuit: cna.Circuit) -> Any:
    """A copy whose down projections have zeros where the circuit's neurons write."""
    out = copy.deepcopy(hf)
    for neuron in circuit:
        index = neuron.index
        for layer, _, m in parts(out):
            if layer == neuron.layer and 0 <= index < experts_oracle.width(m):
                experts_oracle.written(m, index).zero_()
            if layer == neuron.layer:
                index -= experts_oracle.width(m)
    return out


def check_against_plain(hf: Any, model: cna.Model, same: float = 1e-6) -> None:
    """Recordings, rankings, steering at 0 and 1, and answers of a host are those of the plain module."""
    expected = plain(hf, PROMPT_IDS)
    logits = last_logits(hf, PROMPT_IDS)
    assert model.widths == [len(layer[0]) for layer in expected]
    for got, layer in zip(
        cna.by_layer(model, cna.record(model, PROMPT_IDS, progress=False)), expected, strict=True
    ):
        assert close(got, np.stack(layer), 1e-4)
        assert np.array_equal(np.asarray(got) == 0, np.stack(layer) == 0)  # what does not run is 0
    assert close(model.logits(PROMPT_IDS), logits, 1e-4)
    circuit = cna.discover(
        model, PROMPT_IDS[:3], PROMPT_IDS[3:], k=K, universal=None, progress=False
    )
    delta = [np.mean(layer[:3], 0) - np.mean(layer[3:], 0) for layer in expected]
    order = sorted((-abs(d), i, j) for i, row in enumerate(delta) for j, d in enumerate(row))
    assert [(n.layer, n.index) for n in circuit] == [(i, j) for _, i, j in order[:K]]
    zeroed = folded(hf, circuit)
    steered = last_logits(zeroed, PROMPT_IDS)
    assert not close(steered, logits, 1e-3)
    with model.steer(circuit, 0.0):
        assert close(model.logits(PROMPT_IDS), steered, 1e-4)
        answers = model.generate(PROMPT_IDS[:3], max_new_tokens=5, return_tokens=True)
    assert answers == [greedy(zeroed, p, 5, IDS["eos_token_id"]) for p in PROMPT_IDS[:3]]
    with model.steer(circuit, 1.0):
        assert close(model.logits(PROMPT_IDS), logits, same)


def check_other_sites(hf: Any, model: cna.Model) -> None:
    """What the MLPs write and what leaves the blocks is that of the plain module."""
    seen: dict[str, list[torch.Tensor]] = {"mlp": [], "block": []}

    def after(key: str) -> Any:
        def hook(_: Any, __: Any, out: Any) -> None:
            x = out if isinstance(out, torch.Tensor) else out[0]
            seen[key].append(x.detach().reshape(-1, x.shape[-1])[-1].clone())

        return hook

    hooks = [block.register_forward_hook(after("block")) for block in hf.model.layers]
    names = ("mlp", "feed_forward")
    mlps = [next((getattr(b, n) for n in names if hasattr(b, n)), None) for b in hf.model.layers]
    hooks += [m.register_forward_hook(after("mlp")) for m in mlps if m is not None]
    last_logits(hf, PROMPT_IDS[2:3])
    for hook in hooks:
        hook.remove()
    got = model.record(PROMPT_IDS[2:3], site="residual")[0]
    assert close(got, torch.stack(seen["block"]), 1e-4)
    if len(seen["mlp"]) < len(seen["block"]):  # two modules of the block, whose sum no module gives
        with pytest.raises(RuntimeError, match="expected one module that gives the MLP's output"):
            model.record(PROMPT_IDS[:1], site="mlp_output")
    else:
        got = model.record(PROMPT_IDS[2:3], site="mlp_output")[0]
        assert close(got, torch.stack(seen["mlp"]), 1e-4)


@kinds
def test_a_mixture_is_the_plain_module(kind: str) -> None:
    hf = mixture(kind)
    model = cna.live(hf, make_tokenizer())
    check_against_plain(hf, model)
    check_other_sites(hf, model)


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral", "qwen2_moe", "gpt_oss", "deepseek_v3"])
def test_an_exported_mixture_is_the_plain_module(kind: str, tmp_path: Path) -> None:
    hf = mixture(kind)
    cna.export(hf, make_tokenizer(), tmp_path / "export")
    assert not any("Traced" in type(m).__name__ for m in hf.modules())
    exported, live = cna.load(tmp_path / "export"), cna.live(hf, None)
    assert (exported.widths, exported.experts) == (live.widths, live.experts)
    check_against_plain(hf, exported, same=1e-5)
    check_other_sites(hf, exported)
    halves = (PROMPT_IDS[:3], PROMPT_IDS[3:])
    circuit = cna.discover(live, *halves, k=K, universal=None, progress=False)
    moved = cna.Operation.shift(circuit)  # what does not run is not moved either
    with live.steer(moved, 1.5), exported.steer(moved, 1.5):
        assert close(exported.record(PROMPT_IDS), live.record(PROMPT_IDS), 1e-4)
        assert close(exported.logits(PROMPT_IDS), live.logits(PROMPT_IDS), 1e-4)


@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_layer_of_experts_is_a_dense_layer_built_by_hand(kind: str, weighted: bool) -> None:
    """In float64: output = sum over all neurons of activation * routing weight * what it writes."""
    hf = mixture(kind).double()
    hf.set_experts_implementation("eager")  # the others know no float64
    model = cna.live(hf, None, weighted=weighted)
    neurons = cna.by_layer(model, model.record(PROMPT_IDS[1:2]).double())
    outputs = model.record(PROMPT_IDS[1:2], site="mlp_output")[0]
    routed: list[Any] = []
    hooks = [
        m.register_forward_pre_hook(lambda _, args: routed.append((args[1][-1], args[2][-1])))
        for _, n, m in parts(hf)
    ]
    last_logits(hf, PROMPT_IDS[1:2])
    for hook in hooks:
        hook.remove()
    for layer, (_, _, m) in enumerate(parts(hf)):
        chosen, weights = routed[layer]
        gain = torch.zeros(m.num_experts, dtype=torch.float64)
        gain[chosen] = weights.double()
        down = m.down_proj if m.is_transposed else m.down_proj.transpose(1, 2)  # [E, width, hidden]
        each = torch.ones_like(gain) if weighted else gain
        dense = (down * each[:, None, None]).reshape(-1, down.shape[-1])
        expected = neurons[layer][0] @ dense
        if kind == "gpt_oss":
            expected = expected + gain @ m.down_proj_bias
        assert close(outputs[layer].double(), expected.detach(), 1e-6)  # recorded in float32


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral"])
def test_a_circuit_of_one_implementation_steers_on_the_others(kind: str) -> None:
    hf = mixture(kind)
    found: list[cna.Circuit] = []
    logits = []
    for implementation in ("eager", "batched_mm", "grouped_mm"):
        hf.set_experts_implementation(implementation)
        model = cna.live(hf, None)
        sets = PROMPT_IDS[:3], PROMPT_IDS[3:]
        found.append(cna.discover(model, *sets, k=K, universal=None, progress=False))
        with model.steer(found[0], 0.0):
            logits.append(model.logits(PROMPT_IDS))
    assert close(logits[1], logits[0], 1e-4) and close(logits[2], logits[0], 1e-4)
    assert [n.index for n in found[1]] == [n.index for n in found[0]]
    assert [n.index for n in found[2]] == [n.index for n in found[0]]


def test_a_neuron_has_a_layer_an_expert_and_an_index(tmp_path: Path) -> None:
    hf = mixture("deepseek_v3")
    model = cna.live(hf, make_tokenizer())
    assert model.experts == [(0, 0), (4, 24), (4, 24), (4, 24)]
    assert model.widths == [64, 4 * 24 + 48, 4 * 24 + 48, 4 * 24 + 48]
    circuit = cna.discover(
        model, PROMPT_IDS[:3], PROMPT_IDS[3:], fraction=1.0, universal=None, progress=False
    )
    assert circuit.experts == model.experts
    assert circuit.expert_of(0, 63) == (None, 63)
    assert circuit.expert_of(1, 50) == (2, 2)
    assert circuit.expert_of(3, 96) == (None, 0)
    with pytest.raises(IndexError, match="expert_of: expected a neuron inside"):
        circuit.expert_of(0, 64)
    circuit.save(tmp_path / "c.json")
    again = cna.Circuit.load(tmp_path / "c.json")
    assert again == circuit and again.experts == model.experts
    without = cna.Circuit(circuit.shape, circuit.neurons, widths=circuit.widths)
    assert without != circuit
    assert ">expert<" in str(circuit._repr_html_()) and "shared" in str(circuit._repr_html_())
    halves = cna.analysis.stability(
        model, PROMPT_IDS[:3], PROMPT_IDS[3:], k=9, universal=None, n_bootstrap=3, n_halves=2,
        progress=False,
    )  # fmt: skip
    assert halves.circuit.experts == model.experts


def test_what_does_not_run_is_not_steered() -> None:
    """Adding to a neuron of an expert that no token reaches changes nothing."""
    hf = mixture("qwen3_moe")
    model = cna.live(hf, None)
    prompt = PROMPT_IDS[1:2]
    routed: list[set[int]] = []
    hooks = [
        m.register_forward_pre_hook(lambda _, args: routed.append(set(args[1].flatten().tolist())))
        for _, _, m in parts(hf)
    ]
    logits = last_logits(hf, [prompt[0][:1]])
    for hook in hooks:
        hook.remove()
    idle = [
        (layer, 24 * next(e for e in range(4) if e not in used))
        for layer, used in enumerate(routed)
    ]
    circuit = cna.Circuit(
        (4, 96), [cna.Neuron(*at, 50.0) for at in idle], experts=model.experts, widths=model.widths
    )
    with model.steer(cna.Operation.shift(circuit), 1.0):
        assert close(model.logits([prompt[0][:1]]), logits, 1e-6)
        assert not close(model.logits(prompt), last_logits(hf, prompt), 1e-3)


def test_the_owners_own_calls_run_the_owners_experts() -> None:
    hf = mixture("mixtral")
    before = last_logits(hf, PROMPT_IDS)
    model = cna.live(hf, None)
    circuit = cna.discover(
        model, PROMPT_IDS[:3], PROMPT_IDS[3:], k=K, universal=None, progress=False
    )
    with model.steer(circuit, 0.0):
        assert torch.equal(last_logits(hf, PROMPT_IDS), before)
    both = cna.live(hf, None)
    copied = copy.deepcopy(hf)
    parts(copied)[0][2].down_proj.data.zero_()
    assert not torch.equal(last_logits(copied, PROMPT_IDS), before)  # its own experts, not these
    del model
    assert close(both.record(PROMPT_IDS), cna.live(hf, None).record(PROMPT_IDS), 1e-6)
    del both
    gc.collect()
    assert not any("forward" in m.__dict__ for m in hf.modules())


def test_mixtures_are_refused_where_they_are_not_exact(tmp_path: Path) -> None:
    for kind, why in (
        ("llama4_text", "not of transformers' experts interface"),
        ("granitemoeshared", "which meets the others in the block itself"),
    ):
        with pytest.raises(ValueError, match=rf"^export: expected .*{why}; .*with cna\.live"):
            cna.export(mixture(kind), None, tmp_path / "m")
    with pytest.raises(ValueError, match=r"export: expected format='torchscript' for a mixture"):
        cna.export(mixture("mixtral"), None, tmp_path / "m", format="aoti")
    assert not (tmp_path / "m").exists()
    config = transformers.DogeConfig(
        **SMALL, **IDS, **LONG, num_attention_heads=4, num_key_value_heads=2, is_moe=True,
        num_experts=16, num_experts_per_tok=2,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"live: expected (experts|a model that runs)"):
        cna.live(transformers.DogeForCausalLM(config).eval(), None)
    with pytest.raises(ValueError, match="weighted=True, got dense layers"):
        from conftest import make_hf

        cna.live(make_hf(), None, weighted=True)
    with pytest.raises(ValueError, match="whose input is weighted; leave out weighted="):
        cna.live(mixture("llama4_text"), None, weighted=True)


@pytest.mark.parametrize("kind", ["qwen2_moe", "mixtral", "gpt_oss", "deepseek_v3", "llama4_text"])
def test_a_folded_checkpoint_is_the_steered_model(kind: str, tmp_path: Path) -> None:
    """Whatever the checkpoint calls its experts, one tensor for all or one for each."""
    hf = mixture(kind)
    hf.save_pretrained(tmp_path / "hf")
    model = cna.live(hf, None)
    circuit = cna.discover(
        model, PROMPT_IDS[:3], PROMPT_IDS[3:], k=K, universal=None, progress=False
    )
    cna.convert(circuit, tmp_path / "hf", tmp_path / "out", multiplier=-0.5, quiet=True)
    served = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with model.steer(circuit, -0.5):
        assert close(last_logits(served, PROMPT_IDS), model.logits(PROMPT_IDS), 1e-4)
    assert not close(last_logits(served, PROMPT_IDS), last_logits(hf, PROMPT_IDS), 1e-3)
    with pytest.raises(ValueError, match=r"mixture of experts.*use format='hf', 'gguf'"):
        cna.convert(circuit, tmp_path / "hf", tmp_path / "a", format="peft", quiet=True)
    other = cna.Circuit(
        circuit.shape, circuit.neurons, widths=circuit.widths, experts=[(2, 12)] * 4
    )
    if kind != "deepseek_v3":  # whose first layer is dense
        with pytest.raises(ValueError, match=r"convert: expected .* neurons in the down"):
            cna.convert(other, tmp_path / "hf", tmp_path / "b", quiet=True)


def test_expert_use_counts_neurons_and_routed_prompts() -> None:
    hf = mixture("deepseek_v3")
    model = cna.live(hf, None)
    positive, negative = PROMPT_IDS[:3], PROMPT_IDS[3:]
    circuit = cna.discover(model, positive, negative, k=K, universal=None, progress=False)
    got = cna.expert_use(model, circuit, positive, negative, progress=False)
    routed: list[tuple[int, list[int]]] = []
    hooks = [
        m.register_forward_pre_hook(
            lambda _, args, layer=layer: routed.append((layer, args[1][-1].tolist()))
        )
        for layer, name, m in parts(hf)
        if name == "mlp.experts"
    ]
    last_logits(hf, PROMPT_IDS)
    for hook in hooks:
        hook.remove()
    by_prompt = [[r for r in routed[3 * i : 3 * i + 3]] for i in range(len(PROMPT_IDS))]
    assert len(got) == 1 + 3 * 5 and got["neurons"].sum() == K
    for row in got.itertuples():
        mine = [n for n in circuit if n.layer == row.layer]
        places = [circuit.expert_of(n.layer, n.index)[0] for n in mine]
        assert row.neurons == sum((-1 if e is None else e) == row.expert for e in places)
        for column, prompts in (("positive", by_prompt[:3]), ("negative", by_prompt[3:])):
            sent = [any(at == row.layer and row.expert in e for at, e in p) for p in prompts]
            expected = 1.0 if row.expert < 0 else np.mean(sent)
            assert getattr(row, column) == expected
    with pytest.raises(
        ValueError, match="expert_use: expected a mixture of experts, got the dense"
    ):
        from conftest import make_hf

        dense = cna.live(make_hf(), None)
        cna.expert_use(dense, circuit, positive, negative)


def test_the_shell_finds_and_steers_a_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cna.cli import main

    hf = mixture("qwen3_moe", max_position_embeddings=4096)
    hf.save_pretrained(tmp_path / "m")
    make_tokenizer().save_pretrained(tmp_path / "m")
    monkeypatch.setenv("CNA_CACHE", str(tmp_path / "cache"))
    for name, texts in (("a", ["red", "blue", "tall"]), ("b", ["one", "two", "three"])):
        (tmp_path / f"{name}.txt").write_text("\n".join(texts))
    files = ["--positive", str(tmp_path / "a.txt"), "--negative", str(tmp_path / "b.txt")]
    command = ["discover", "-m", str(tmp_path / "m"), *files, "--out", str(tmp_path / "c.json")]
    assert main([*command, "--live"]) == 0
    found = cna.Circuit.load(tmp_path / "c.json")
    assert found.experts == [(4, 24)] * 4
    asked = ["generate", "hello", "-m", str(tmp_path / "m"), "--max-new-tokens", "3"]
    assert main([*asked, "--live", "--circuit", str(tmp_path / "c.json")]) == 0
    assert not list(tmp_path.glob("cache/**/manifest.json"))
    assert main(command) == 0  # an archive of it finds the same
    again = cna.Circuit.load(tmp_path / "c.json")
    assert [(n.layer, n.index) for n in again] == [(n.layer, n.index) for n in found]
    assert again.experts == found.experts and list(tmp_path.glob("cache/**/manifest.json"))


def test_sparse_recordings_hold_what_ran_and_nothing_else() -> None:
    for kind in ("qwen3_moe", "deepseek_v3"):
        model = cna.live(mixture(kind), None)
        dense = cna.record(model, PROMPT_IDS, progress=False, batch_size=4)
        got = cna.record_sparse(model, PROMPT_IDS, progress=False, batch_size=4)
        assert got.shape == (len(PROMPT_IDS), model.n_neurons) and got.dtype == np.float32
        assert np.array_equal(got.toarray(), dense.reshape(len(PROMPT_IDS), -1).numpy())
        ran = sum(
            width - (count - 2) * each  # two experts of each token
            for width, (count, each) in zip(model.widths, model.experts, strict=True)
            if count
        ) + sum(w for w, (count, _) in zip(model.widths, model.experts, strict=True) if not count)
        assert got.nnz <= ran * len(PROMPT_IDS)
        stored = got.data.nbytes + got.indices.nbytes + got.indptr.nbytes
        assert stored <= 8 * got.nnz + 4 * (len(PROMPT_IDS) + 1)
