"""The faster form of a traced graph: the same numbers but for last bits, and none of them without it."""

from __future__ import annotations

from typing import Any

import cna
import numpy as np
import pytest
import torch
from conftest import FAMILIES, PROMPTS, hf_record, layers_of, make_hf, random_ids
from torch.profiler import ProfilerActivity, profile

IDS = random_ids([3, 7, 7, 12, 30], seed=5)
ALONE = {"batch_size": 1, "share_prefix": False}


def operators(model: cna.Model) -> dict[str, int]:
    """How often each operator runs in one pass of one prompt."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        model.logits(IDS[:1])
    return {event.key: event.count for event in seen.key_averages()}


@pytest.mark.parametrize("family", FAMILIES)
def test_without_it_every_bit_is_the_graphs_own(family: str, exports: Any) -> None:
    hf = make_hf(family, layers=layers_of(family, "torchscript"))
    plain = cna.load(exports(family), fuse=False)
    fused = cna.load(exports(family))
    with torch.inference_mode():
        eager = torch.stack([hf(torch.tensor([p]), logits_to_keep=1).logits[0, -1] for p in IDS])
    assert torch.equal(plain.logits(IDS, **ALONE), eager)
    recorded = torch.from_numpy(hf_record(hf, IDS, family))
    assert torch.equal(cna.record(plain, IDS, **ALONE), recorded)
    for got, want in ((fused.logits(IDS), eager), (cna.record(fused, IDS), recorded)):
        assert (got - want).abs().max() <= 2e-5 * want.abs().max()
    assert fused.generate(IDS, 8, return_tokens=True) == plain.generate(IDS, 8, return_tokens=True)


def test_chains_and_products_are_replaced(exports: Any) -> None:
    layers = make_hf("llama").config.num_hidden_layers
    fused, plain = (
        operators(cna.load(exports("llama"))),
        operators(cna.load(exports("llama"), fuse=False)),
    )
    assert plain["aten::linear"] == 7 * layers + 1 and "aten::linear" not in fused
    # Query, key and value are one product, and views of it.
    assert fused["cna::packed_linear"] == 5 * layers + 1
    assert fused["cna::rms_norm"] == plain["aten::rsqrt"] == 2 * layers + 1
    # Keys are turned on their way into the buffers, queries are not written anywhere.
    assert fused["cna::rotary"] == fused["cna::write_rotary"] == fused["cna::write_cache"] == layers
    assert plain["aten::index_copy_"] - fused["aten::index_copy_"] == 2 * layers
    assert fused["cna::attend"] == layers == plain["aten::repeat_interleave"] // 2
    assert "aten::repeat_interleave" not in fused
    assert plain["aten::silu"] == fused["cna::silu_times"] == layers
    assert "aten::silu" not in fused and "aten::silu_" not in fused
    assert not {name for name in plain if name.startswith("cna::") and "tap" not in name}


def test_rotary_has_the_bits_of_the_plain_chain() -> None:
    torch.manual_seed(0)
    for heads, tokens, dim, rows in ((3, 5, 8, 2), (1, 1, 64, 4), (2, 9, 6, 1)):
        q = torch.randn(rows, tokens, heads, dim).transpose(1, 2)
        part = torch.randn(rows, heads, tokens, dim + 4)[..., :dim]  # as partial rotary slices it
        cos, sin = torch.randn(2, rows, 1, tokens, dim)
        for x in (q, part, q.double(), q[:, :, :, ::2]):
            c, s = (t[..., : x.shape[-1]].to(x.dtype) for t in (cos, sin))
            half = x.shape[-1] // 2
            turned = torch.cat([-x[..., half:], x[..., :half]], -1)
            want = x * c + turned * s
            assert torch.equal(torch.ops.cna.rotary(x, c, s), want)
            assert torch.equal(torch.ops.cna.rotary(x, c[:1], s[:1]), x * c[:1] + turned * s[:1])


def test_what_is_written_into_a_buffer_is_what_an_index_copy_writes() -> None:
    torch.manual_seed(0)
    rows, heads, total, dim = 2, 3, 9, 8
    whole = torch.randn(rows, heads, total + 4, dim)
    for places in ([3, 4, 5], [8], [7, 0, 2]):
        index = torch.tensor(places)
        x = torch.randn(rows, len(places), heads, dim).transpose(1, 2)
        cos, sin = torch.randn(2, rows, 1, len(places), dim)
        turned = torch.ops.cna.rotary(x, cos, sin)
        for given in (x, x.contiguous(), x.double()):
            got, want = (whole[:, :, :total].to(given.dtype).clone() for _ in range(2))
            back = torch.ops.cna.write_cache(got, index, given)
            assert back.data_ptr() == got.data_ptr()
            assert torch.equal(got, want.index_copy_(2, index, given))
        got, want = whole.clone()[:, :, :total], whole.clone()[:, :, :total]  # views of buffers
        torch.ops.cna.write_rotary(got, index, x, cos, sin)
        assert torch.equal(got, want.index_copy_(2, index, turned))
    for wrong in ([9], [-1]):
        with pytest.raises(RuntimeError, match=r"out of range|out of bounds"):
            torch.ops.cna.write_cache(whole[:, :, :total], torch.tensor(wrong), whole[:, :, :1])


# Rows, heads of keys, heads of queries for each, tokens, places, features of a head and of values.
ATTENTIONS = (
    (3, 2, 3, 5, 9, 16, 16),
    (2, 1, 4, 7, 7, 16, 24),
    (4, 3, 1, 2, 6, 8, 40),
    (5, 3, 3, 1, 8, 64, 64),
    (33, 3, 3, 1, 77, 64, 64),  # several threads
    (2, 2, 2, 33, 40, 32, 32),  # more than one task of a row
    (2, 2, 3, 97, 99, 16, 16),  # too many for loops of our own
    (2, 2, 3, 4, 5, 12, 10),  # no whole lanes
)


@pytest.mark.parametrize("sizes", ATTENTIONS, ids=str)
@pytest.mark.parametrize("unseen", [torch.finfo(torch.float32).min, -torch.inf])
def test_attention_is_that_of_repeated_heads(sizes: tuple[int, ...], unseen: float) -> None:
    rows, heads, groups, tokens, places, dim, value_dim = sizes
    torch.manual_seed(0)
    q = torch.randn(rows, tokens, heads * groups, dim).transpose(1, 2)
    k = torch.randn(rows, heads, places + 4, dim)[:, :, :places]  # views of buffers
    v = torch.randn(rows, heads, places + 4, value_dim)[:, :, :places]
    other = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (k, v)]  # rows lie apart
    seen = torch.rand(rows, 1, tokens, places) < 0.7
    seen[..., places // 2] = True
    behind = seen & (torch.arange(places) < places - tokens // 2)  # what lies ahead is not seen
    behind[..., places // 2 :] |= torch.arange(places - places // 2) == 0
    for mask in (seen, behind):
        given = torch.zeros(mask.shape).masked_fill(~mask, unseen)
        for masked in (given, given[:1]):
            for keys, values in ((k, v), (other[0], other[1])):
                scores = q.double() @ keys.double().repeat_interleave(groups, 1).mT * 0.25
                weights = (scores + masked).softmax(-1)
                want = weights @ values.double().repeat_interleave(groups, 1)
                got = torch.ops.cna.attend(q, keys, values, masked, 0.25)
                torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)


def test_attention_reads_nothing_that_is_not_seen_and_hides_no_nan() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 2, 3, 16), torch.randn(2, 1, 9, 16), torch.randn(2, 1, 9, 16)
    mask = torch.zeros(2, 1, 3, 9)
    mask[..., :2] = mask[..., 7:] = torch.finfo(torch.float32).min
    want = torch.ops.cna.attend(q, k, v, mask, 0.5)
    for x in (k, v):
        x[:, :, :2] = x[:, :, 7:] = torch.nan
    assert torch.equal(torch.ops.cna.attend(q, k, v, mask, 0.5), want)
    k, v = k.nan_to_num(), v.nan_to_num()
    for unseen in (torch.finfo(torch.float32).min, -torch.inf):
        mask[0, 0, 0] = unseen  # a token of padding sees nothing
        got = torch.ops.cna.attend(q, k, v, mask, 0.5)
        plain = torch.nn.functional.scaled_dot_product_attention(
            q, k.expand(-1, 2, -1, -1), v.expand(-1, 2, -1, -1), mask, scale=0.5
        )
        torch.testing.assert_close(got, plain, rtol=1e-5, atol=1e-6)
    k[1, 0, 4, 3] = torch.nan
    assert torch.ops.cna.attend(q, k, v, mask, 0.5)[1].isnan().all()
    k[1, 0, 4, 3], q[1, 0, 0] = 0.0, torch.inf
    assert not torch.ops.cna.attend(q, k, v, mask, 0.5)[1, 0, 0].isfinite().any()
    far = 200 * torch.randn(1, 1, 4, 16)  # one weight of 1, all others below e^-87
    got = torch.ops.cna.attend(far, far, far, torch.zeros(1, 1, 4, 4), 1.0)
    assert torch.equal(got, far)


def test_silu_times_is_that_of_float64() -> None:
    torch.manual_seed(0)
    ends = torch.tensor([0.0, -0.0, 1e-30, 88.0, -88.0, 300.0, -300.0, -86.9])
    for gate in (torch.randn(3, 5, 48) * 8, ends, torch.randn(7, 3), torch.randn(64, 1536)):
        up = torch.randn(gate.shape)
        a = gate.double()
        want = (a / (1 + (-a).exp()) * up.double()).numpy()
        given = gate.clone()
        got = torch.ops.cna.silu_times(given, up)
        assert got.data_ptr() == given.data_ptr()
        np.testing.assert_allclose(got.double().numpy(), want, rtol=1e-6, atol=1e-34)
    for bad in (torch.nan, torch.inf):
        gate = torch.full((2, 8), 0.5)
        gate[1, 3] = bad
        got = torch.ops.cna.silu_times(gate.clone(), torch.ones(2, 8))
        assert got.isfinite().sum() == 15 and not got[1, 3].isfinite()


def test_loops_of_our_own_run_on_the_threads_of_torch() -> None:
    """Without OpenMP at::parallel_for is a loop of one thread, and nothing says so."""
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert torch.ops.cna.loop_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_rms_norm_is_that_of_float64() -> None:
    torch.manual_seed(0)
    for shape in ((2, 3, 576), (1, 1, 5), (4, 7, 33), (0, 2, 8)):
        x, gain = torch.randn(shape) * 3, torch.randn(shape[-1])
        for given in (x, x.transpose(0, 1)):
            a = given.double().numpy()
            want = a / np.sqrt((a**2).mean(-1, keepdims=True) + 1e-5) * gain.double().numpy()
            got = torch.ops.cna.rms_norm(given, gain, 1e-5)
            np.testing.assert_allclose(got.numpy(), want, rtol=2e-6, atol=1e-6)
    half = torch.randn(3, 8).bfloat16()
    got = torch.ops.cna.rms_norm(half, torch.ones(8).bfloat16(), 1e-5)
    assert got.dtype == torch.bfloat16


def test_transposed_layers_are_packed_as_well(exports: Any) -> None:
    """GPT-2 keeps its weights as [in, out] and adds the bias first."""
    layers = make_hf("gpt2").config.num_hidden_layers
    fused = operators(cna.load(exports("gpt2")))
    plain = operators(cna.load(exports("gpt2"), fuse=False))
    assert plain["aten::addmm"] == 4 * layers
    assert fused["cna::packed_linear"] == 4 * layers + 1 and "aten::addmm" not in fused


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_is_read_off_the_weights_stays(family: str, exports: Any) -> None:
    """Contributions and readouts need the weights themselves: unpacked, they are what they were."""
    fused, plain = cna.load(exports(family)), cna.load(exports(family), fuse=False)
    circuits = [
        cna.discover(m, PROMPTS[:4], PROMPTS[4:], k=9, ranking="contribution", universal=None)
        for m in (fused, plain)
    ]
    assert [(n.layer, n.index) for n in circuits[0]] == [(n.layer, n.index) for n in circuits[1]]
    fused.core.to("meta")  # and a move takes them along
    assert fused.core.dry_run(2, 3, 4) == [2, 1, 320]
