"""What a run folder says of itself, and which finished answers it takes for its own."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import cna
import pytest
import torch
from cna.arms import Arm, neuron_arms
from cna.measure import answers as answering
from cna.measure import plan as planning
from cna.steering import SteeringVector, random_like
from cna.tasks import Task
from conftest import CHAT_TEMPLATE, PROMPTS, make_hf, make_tokenizer

EVALUATION = [f"Please do number {i}." for i in range(4)]
BENIGN = ["Say one."]
SMALL: dict[str, Any] = {
    "random_seeds": [0],
    "max_new_tokens": 4,
    "kl_prompts": 0,
    "perplexity": False,
    "quiz_questions": 0,
    "progress": False,
}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many answers each sweep generated."""
    counts: list[int] = []
    real = answering.answer_jobs

    def count(model: Any, jobs: Any, *args: Any, **options: Any) -> None:
        counts.append(len(jobs))
        real(model, jobs, *args, **options)

    monkeypatch.setattr(answering, "answer_jobs", count)
    return counts


def test_run_json_says_how_the_run_was_made(
    tiny: cna.Model, circuit: cna.Circuit, task: Task, tmp_path: Path
) -> None:
    extra = neuron_arms("mine", random_like(circuit, 7), [0.0])
    cna.sweep(tiny, circuit, task, [0.0], ["random"], arms=extra, out=tmp_path, **SMALL)
    run = json.loads((tmp_path / "run.json").read_text())
    kept = cna.Circuit.load(tmp_path / "circuit.json").provenance
    assert run["dtype"] == kept["dtype"] == "float32"
    assert run["host"] == kept["host"] == "torchscript"
    assert set(run["versions"]) >= {"cna", "torch", "transformers"}
    assert kept["versions"] == run["versions"]
    assert run["chat_template_sha256"] == kept["chat_template_sha256"] and run["weights_hash"]
    assert run["steering_active"] == kept["steering_active"] == []
    assert run["batch_size"] == 64 and run["kl_prompts"] == 0 and run["random_seeds"] == [0]
    date = datetime.datetime.fromisoformat(run["date"])
    assert abs(datetime.datetime.now(datetime.timezone.utc) - date).total_seconds() < 600
    arms = {(a["method"], a["strength"]): a for a in run["arms"]}
    assert set(arms) == {("cna", 0.0), ("cna", 1.0), ("random", 0.0), ("mine", 0.0)}
    assert arms["random", 0.0]["source"]["seed"] == 0
    assert arms["mine", 0.0]["source"]["seed"] == 7
    assert arms["cna", 0.0]["source"]["circuit"] == run["circuit_hash"]
    assert len({a["digest"] for a in run["arms"]}) == 4


def test_two_circuits_of_one_name_keep_their_own_answers(
    tiny: cna.Model, circuit: cna.Circuit, task: Task, tmp_path: Path, made: list[int], capsys: Any
) -> None:
    def run(seed: int, out: Path | None) -> list[str]:
        arms = neuron_arms("k=12", random_like(circuit, seed), [-3.0])
        table = cna.sweep(tiny, circuit, task, [], [], arms=arms, out=out, **SMALL).answers
        return list(table[table.method == "k=12"].answer)

    first = run(1, tmp_path)
    assert "with other neurons" not in capsys.readouterr().err
    assert run(2, tmp_path) == run(2, None)
    assert "k=12||-3.0 with other neurons or vectors" in capsys.readouterr().err
    assert run(1, tmp_path) == first == run(1, None)
    assert made == [10, 5, 10, 0, 10]  # 5 prompts; what is finished is not made again


def test_two_vectors_of_one_name_keep_their_own_answers(
    tiny: cna.Model, circuit: cna.Circuit, task: Task, tmp_path: Path, made: list[int]
) -> None:
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        vector = SteeringVector({2: torch.randn(tiny.hidden_size)}, name="mine")
        arms = [Arm("mine", 2, 4.0, vector.intervention([4.0]))]
        cna.sweep(tiny, circuit, task, [], [], arms=arms, out=tmp_path, **SMALL)
    assert made == [10, 5, 0]


def dated_model() -> cna.Model:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace(
        "helpful model", "model of {{ strftime_now('%d %b %Y') }}"
    )
    return cna.live(copy.deepcopy(make_hf("llama")), tokenizer)


def test_a_template_that_writes_the_date_does_not_mix_days(
    circuit: cna.Circuit, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers.utils.chat_template_utils as utils

    class Clock(datetime.datetime):
        today = datetime.datetime(2026, 1, 1)

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.today if tz is None else datetime.datetime.now(tz)

    monkeypatch.setattr(utils, "datetime", Clock)
    model = dated_model()
    assert "01 Jan 2026" in model.decode(model.tokenize(["x"])[0])
    cna.sweep(model, circuit, task, [0.0], [], out=tmp_path, **SMALL)
    cna.sweep(model, circuit, task, [0.0], [], out=tmp_path, **SMALL)  # the same day
    Clock.today = datetime.datetime(2026, 1, 2)
    with pytest.raises(ValueError, match="belong to this run"):
        cna.sweep(model, circuit, task, [0.0], [], out=tmp_path, **SMALL)


def test_a_folder_of_another_run_is_refused_before_the_work(
    tiny: cna.Model,
    circuit: cna.Circuit,
    task: Task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cna.sweep(tiny, circuit, task, [0.0], [], out=tmp_path, **SMALL)
    monkeypatch.setattr(planning, "build_arms", lambda *_, **__: pytest.fail("worked"))
    other = dataclasses.replace(task, evaluation=task.evaluation[:2])
    with pytest.raises(ValueError, match="belong to this run"):
        cna.sweep(tiny, circuit, other, [0.0], ["caa"], out=tmp_path, **SMALL)


def test_versions_and_weights_belong_to_a_run(
    tiny: cna.Model, circuit: cna.Circuit, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cna.hosts import about
    from cna.many.chunks import identity

    def prints() -> tuple[str, str]:
        run = planning.plan(tiny, circuit, task, cna.SweepOptions(baselines=()), progress=False)
        return run.fingerprint, identity(tiny, [[1, 2]])

    first = prints()
    assert prints() == first
    real = about.versions()
    monkeypatch.setattr(about, "versions", lambda: real | {"transformers": "99"})
    assert all(a != b for a, b in zip(prints(), first, strict=True))


def test_steering_that_is_active_steers_every_function_and_is_written_down(
    tiny: cna.Model, circuit: cna.Circuit, task: Task
) -> None:
    """The same as one intervention given by hand: no function leaves the block out."""
    outer = cna.Intervention.scale(random_like(circuit, 3), [-4.0])
    sides = tiny.tokenize(PROMPTS[:4]), tiny.tokenize(PROMPTS[4:])
    with tiny.steer(outer):
        found = cna.discover(tiny, PROMPTS[:4], PROMPTS[4:], k=12, universal=None)
        vector = cna.caa(tiny, PROMPTS[:4], PROMPTS[4:]).vectors[2]
        mlp = cna.caa_mlp(tiny, PROMPTS[:4], PROMPTS[4:]).vectors[2]
        universal = cna.universal_neurons(tiny, top_fraction=0.05)
        swept = cna.sweep(tiny, circuit, task, [0.0], [], **SMALL)
        expected = {m: None for m in (0.0, 1.0)}
        for m in expected:
            with tiny.steer(circuit, m):
                expected[m] = tiny.generate(task.evaluation, max_new_tokens=4, progress=False)
    assert found.provenance["steering_active"] == [outer.digest]
    assert swept.settings["steering_active"] == [outer.digest]
    for got, site in ((vector, "residual"), (mlp, "mlp_output")):
        means = [
            tiny.core.record(side, site, intervention=outer).double()[:, 2].mean(0)
            for side in sides
        ]
        torch.testing.assert_close(got.double(), means[0] - means[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(vector, cna.caa(tiny, PROMPTS[:4], PROMPTS[4:]).vectors[2])
    assert universal.neurons != cna.universal_neurons(tiny, top_fraction=0.05).neurons
    rows = swept.answers[swept.answers.set == "evaluation"]
    for m, texts in expected.items():
        assert list(rows[rows.strength == m].answer) == texts
