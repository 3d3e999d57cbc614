"""Arms share the layers below their first edit where texts are given; their numbers stay their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cna
import pytest
import torch
from conftest import FAMILIES, PROMPTS, layers_of, make_hf, make_tokenizer, random_ids
from families import build
from torch.profiler import ProfilerActivity, profile

ANSWERS = random_ids([4, 4, 2, 7, 1], seed=3)


def arms_of(model: cna.Model, hidden: int) -> list[cna.Intervention]:
    """Arms that first act in different layers, in no order; the first does nothing."""
    found = cna.discover(model, PROMPTS[:4], PROMPTS[4:], k=24, universal=None)
    last = model.n_layers - 1
    vector = torch.linspace(-1, 1, hidden)
    add = cna.Intervention.add
    parts = [cna.Intervention(1), add("residual", last, vector, [1.5])]
    for layer in range(last, -1, -1):
        here = found.in_layers((layer, layer))
        if len(here):
            parts.append(cna.Intervention.scale(here, [-1.0]))
    parts += [add("mlp_output", 1, vector, [-2.0]), add("residual", 0, vector, [0.5])]
    return parts


@pytest.mark.parametrize("family", FAMILIES)
def test_every_arm_is_what_it_is_alone(family: str, exports: Any) -> None:
    model = cna.load(exports(family))
    assert model.core.widens
    parts = arms_of(model, make_hf(family).config.hidden_size)
    chat, short = model.tokenize(PROMPTS)[: len(ANSWERS)], random_ids([3, 9, 9, 12, 1], seed=4)
    for prompts in (chat, short):
        together = cna.Intervention.concat(parts)
        for rows in (3, 64):
            kl, sums = model.core.divergence(
                prompts, ANSWERS, intervention=together, batch_rows=rows
            )
            n = len(parts)
            again = model.core.log_likelihood(
                [p for p in prompts for _ in parts],
                [a for a in ANSWERS for _ in parts],
                intervention=together,
                arms=list(range(n)) * len(prompts),
                batch_rows=rows,
            )
            torch.testing.assert_close(again.view(-1, n).T, sums, rtol=1e-4, atol=1e-4)
            for i, arm in enumerate(parts):
                pair = cna.Intervention.concat([parts[0], arm])
                alone, likely = model.core.divergence(
                    prompts, ANSWERS, intervention=pair, batch_rows=1, share_prefix=False
                )
                torch.testing.assert_close(kl[i], alone[1], rtol=1e-3, atol=1e-6)
                torch.testing.assert_close(sums[i], likely[1], rtol=1e-4, atol=1e-4)


def rows_of_products(model: cna.Model, arms: list[cna.Intervention]) -> list[int]:
    """Rows that each product of a pass over one text took, in their order."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        model.core.divergence(
            random_ids([9]), ANSWERS[:1], intervention=cna.Intervention.concat(arms), batch_rows=64
        )
    events = [e for e in seen.events() if e.name == "cna::packed_linear"]
    return [e.input_shapes[0][0] for e in sorted(events, key=lambda e: e.time_range.start)]


def test_layers_below_the_first_edit_run_once(exports: Any) -> None:
    model, hf = cna.load(exports("llama")), make_hf("llama")
    assert model.core.widens
    vector, add = torch.ones(hf.config.hidden_size), cna.Intervention.add
    plain, late = cna.Intervention(1), add("mlp_output", 2, vector, [1.0])
    rows = rows_of_products(model, [plain, late, add("residual", 2, vector, [1.0])])
    layers = hf.config.num_hidden_layers
    assert layers == layers_of("llama", "torchscript") == 4 and len(rows) == 5 * layers + 1
    assert rows == [1] * 10 + [2] * 5 + [3] * 6  # an edit of the stream is felt one layer later
    around = cna.Intervention.concat([late, late])  # no arm is the unsteered model
    assert set(rows_of_products(model, [late, around])) == {3}


CHOICES = [[7], [7, 8, 9], [1, 2], [30, 31, 32, 33, 34, 35], [5]]


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma3"])
@pytest.mark.parametrize("rows", [2, 3, 64])
def test_choices_of_a_question_score_as_each_alone(family: str, rows: int, exports: Any) -> None:
    """Questions of equal and of other lengths, one with a single choice, and some choices twice."""
    model = cna.load(exports(family))
    parts = arms_of(model, make_hf(family).config.hidden_size)
    questions = random_ids([9, 5, 9, 1, 2], seed=8)
    questions.append([*questions[0][:4], 6])  # begins like another
    asked = [(q, c) for q in questions[:-1] for c in CHOICES[: 3 if len(q) > 1 else 5]]
    asked += [(questions[-1], CHOICES[0]), (questions[0], CHOICES[3])]
    prompts, ends = [q for q, _ in asked], [c for _, c in asked]
    n = len(asked)
    for arms in ([parts[0]], [parts[-1]], parts):
        together = cna.Intervention.concat(arms)
        which = [a for a in range(len(arms)) for _ in asked]
        found = model.core.log_likelihood(
            prompts * len(arms),
            ends * len(arms),
            intervention=together,
            arms=which,
            batch_rows=rows,
        )
        for i, arm in enumerate(arms):
            alone = model.core.log_likelihood(
                prompts, ends, intervention=arm, batch_rows=1, share_prefix=False
            )
            torch.testing.assert_close(found.view(-1, n)[i], alone, rtol=1e-4, atol=1e-4)


def test_a_question_is_computed_once_for_its_choices(exports: Any) -> None:
    model = cna.load(exports("llama"))
    assert model.core.widens  # tries it once
    questions = random_ids([20, 20], seed=2)
    asked = [(q, c) for q in questions for c in CHOICES[:4]]
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        model.core.log_likelihood([q for q, _ in asked], [c for _, c in asked])
    products = [e for e in seen.events() if e.name == "cna::packed_linear"]
    tokens = sum(
        e.input_shapes[-3][0] * e.input_shapes[-3][1]  # below them lies what else is on the stack
        for e in products
        if e.input_shapes[-2] == [64, 32]  # query, key and value, gate, up of four layers
    )
    # Openings of 19 tokens, then from a question's last token on: eight rows as long as the longest.
    assert tokens == 3 * 4 * (2 * 19 + 8 * 7)


def test_a_host_whose_rows_cannot_join_goes_on_without(tmp_path: Path) -> None:
    """OPT's rows are flat in its MLPs: the tap there counts on the rows that the step began with."""
    hf, _ = build("opt")
    model = cna.load(cna.export(hf, make_tokenizer(), tmp_path / "opt"))
    assert not model.core.widens
    parts = [
        cna.Intervention(1),
        cna.Intervention.add("mlp_output", 2, torch.linspace(-1, 1, 32), [1.0]),
    ]
    prompts = random_ids([5, 5], seed=4)
    both = cna.Intervention.concat(parts)
    kl, _ = model.core.divergence(prompts, ANSWERS[:2], intervention=both, batch_rows=64)
    alone, _ = model.core.divergence(prompts, ANSWERS[:2], intervention=both, batch_rows=1)
    torch.testing.assert_close(kl, alone, rtol=1e-3, atol=1e-6)
    assert kl[1].min() > 1e-4
