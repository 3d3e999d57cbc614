"""lm-evaluation-harness sees the same numbers as plain Hugging Face, steered and not."""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from pathlib import Path
from typing import Any

import cna
import pytest
import torch
from conftest import PROMPTS, make_tokenizer
from reference import scaled_neurons

if importlib.util.find_spec("lm_eval") is None:
    pytest.skip("lm-eval is not installed", allow_module_level=True)

os.environ["TOKENIZERS_PARALLELISM"] = "false"
with warnings.catch_warnings():  # the harness's own imports warn
    warnings.simplefilter("ignore")
    import lm_eval
    from cna.lm_eval import CnaLM
    from cna.measure.lm_eval_passes import cut
    from lm_eval.api.instance import Instance
    from lm_eval.tasks import TaskManager

pytestmark = pytest.mark.filterwarnings("ignore")

PAIRS = [
    ("What is the capital of France?", " Paris"),
    ("What is the capital of France?", " Lyon"),
    ("The sea is", " blue and deep"),
    ("a", "b"),
    ("Trailing spaces  ", "move"),
    ("", "no context at all"),
]
DOCS = [
    {"question": "Colour of grass", "choices": ["red", "green", "blue"], "answer": 1},
    {"question": "Legs of a dog", "choices": ["two", "four"], "answer": 1},
    {"question": "Opposite of up", "choices": ["down", "left", "round"], "answer": 0},
    {"question": "Two and two", "choices": ["five", "four", "six"], "answer": 1},
]


@pytest.fixture(scope="module")
def circuit(tiny: cna.Model) -> cna.Circuit:
    return cna.discover(tiny, PROMPTS[:4], PROMPTS[4:], k=24, universal=None, progress=False)


def reference(hf: Any, head: list[int], tail: list[int]) -> tuple[float, bool]:
    with torch.inference_mode():
        logits = hf(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1].float()
    log_p = logits.log_softmax(-1).double()
    target = torch.tensor(tail)
    return log_p[range(len(tail)), target].sum().item(), bool((logits.argmax(-1) == target).all())


def split(context: str, continuation: str) -> tuple[list[int], list[int]]:
    tokenizer = make_tokenizer()
    if not context:
        return [256], tokenizer(continuation)["input_ids"]
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    return tokenizer(stripped)["input_ids"], tokenizer(continuation)["input_ids"]


def request(kind: str, *args: Any) -> Any:
    return Instance(request_type=kind, doc={}, arguments=args, idx=0)


def greedy(hf: Any, ids: list[int], n: int) -> list[int]:
    out: list[int] = []
    for _ in range(n):
        with torch.inference_mode():
            token = int(hf(torch.tensor([ids + out])).logits[0, -1].argmax())
        if token == 257:
            break
        out.append(token)
    return out


@pytest.mark.parametrize("m", [1.0, 0.0, -1.0])
def test_log_likelihoods_equal_hugging_face(
    tiny: cna.Model, tiny_hf: Any, circuit: cna.Circuit, m: float
) -> None:
    lm = CnaLM(tiny, progress=False)
    with tiny.steer(circuit, m):
        got = lm.loglikelihood([request("loglikelihood", *pair) for pair in PAIRS])
    with scaled_neurons(tiny_hf, circuit, m):
        expected = [reference(tiny_hf, *split(*pair)) for pair in PAIRS]
    assert [g[0] for g in got] == pytest.approx([e[0] for e in expected], abs=1e-4)
    assert [g[1] for g in got] == [e[1] for e in expected]


def test_steering_changes_the_log_likelihoods(tiny: cna.Model, circuit: cna.Circuit) -> None:
    lm = CnaLM(tiny, progress=False)
    asked = [request("loglikelihood", *pair) for pair in PAIRS]
    plain = lm.loglikelihood(asked)
    with tiny.steer(circuit, 0.0):
        assert lm.loglikelihood(asked) != plain
    assert lm.loglikelihood(asked) == plain


def test_a_circuit_of_the_bridge_equals_the_steer_block(
    tiny: cna.Model, circuit: cna.Circuit, tmp_path: Path
) -> None:
    asked = [request("loglikelihood", *pair) for pair in PAIRS]
    circuit.save(tmp_path / "circuit.json")
    own = CnaLM(tiny, str(tmp_path / "circuit.json"), 0.5, progress=False).loglikelihood(asked)
    with tiny.steer(circuit, 0.5):
        assert CnaLM(tiny, progress=False).loglikelihood(asked) == own


def test_greedy_flags_find_what_the_model_itself_says(tiny: cna.Model, tiny_hf: Any) -> None:
    lm = CnaLM(tiny, progress=False)
    head = make_tokenizer()("The sea is")["input_ids"]
    said = greedy(tiny_hf, head, 5)
    other = [*said[:-1], (said[-1] + 1) % 256]
    assert lm._passes().greedy(
        [(head, said), (head, said[:2]), (head, other), (head, said[:1])]
    ) == [
        True,
        True,
        False,
        True,
    ]
    assert not any(
        flag
        for _, flag in CnaLM(tiny, greedy_flags=False, progress=False).loglikelihood(
            [request("loglikelihood", *pair) for pair in PAIRS]
        )
    )


@pytest.mark.parametrize("m", [1.0, 0.0])
def test_rolling_scores_whole_texts_in_windows(
    tiny: cna.Model, tiny_hf: Any, circuit: cna.Circuit, m: float
) -> None:
    texts = ["A short text.", "word " * 80]  # 400 tokens, the model takes 256
    lm = CnaLM(tiny, progress=False)
    with tiny.steer(circuit, m):
        got = lm.loglikelihood_rolling([request("loglikelihood_rolling", t) for t in texts])
    expected = []
    with scaled_neurons(tiny_hf, circuit, m):
        for text in texts:
            ids, size = make_tokenizer()(text)["input_ids"], 255
            total = reference(tiny_hf, [256], ids[:size])[0]
            if len(ids) > size:  # a last window with full context
                rest = len(ids) - size
                tail = ids[-rest:]
                total += reference(tiny_hf, ids[len(ids) - size - 1 : -rest], tail)[0]
            expected.append(total)
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("m", [1.0, 0.0])
def test_generation_stops_at_stop_strings(
    tiny: cna.Model, tiny_hf: Any, circuit: cna.Circuit, m: float
) -> None:
    lm = CnaLM(tiny, progress=False)
    tokenizer = make_tokenizer()
    with scaled_neurons(tiny_hf, circuit, m):
        full = [greedy(tiny_hf, tokenizer(p)["input_ids"], 70) for p in PROMPTS[:3]]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in full]
    stops = [texts[0][40] if len(texts[0]) > 40 else "q", "z"]
    options = {"until": stops, "max_gen_toks": 70, "do_sample": False}
    with tiny.steer(circuit, m):
        got = lm.generate_until([request("generate_until", p, options) for p in PROMPTS[:3]])
        whole = lm.generate_until(
            [request("generate_until", p, {"until": [], "max_gen_toks": 70}) for p in PROMPTS[:3]]
        )
    assert got == [cut(text, stops) for text in texts]
    assert whole == texts


def test_sampled_answers_repeat_with_their_seed(tiny: cna.Model) -> None:
    options = {"until": ["\n"], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    asked = [request("generate_until", p, options) for p in PROMPTS[:3]]
    first = CnaLM(tiny, seed=3, progress=False).generate_until(asked)
    assert CnaLM(tiny, seed=3, progress=False).generate_until(asked) == first
    assert CnaLM(tiny, seed=4, progress=False).generate_until(asked) != first


def test_users_mistakes_are_named(tiny: cna.Model, circuit: cna.Circuit) -> None:
    lm = CnaLM(tiny, progress=False)
    asked = [request("loglikelihood", *PAIRS[0]), request("loglikelihood", *PAIRS[1])]
    with tiny.steer(circuit, [0.0, 1.0]), pytest.raises(ValueError, match="one strength for all"):
        lm.loglikelihood(asked)
    with pytest.raises(ValueError, match="below the model's 256"):
        lm.generate_until([request("generate_until", "a", {"until": [], "max_gen_toks": 900})])
    with pytest.raises(ValueError, match="num_beams"):
        lm.generate_until([request("generate_until", "a", {"until": [], "num_beams": 2})])
    with pytest.raises(ValueError, match="expected a circuit of"):
        CnaLM(tiny, cna.Circuit((2, 8), [cna.Neuron(0, 0, 1.0)]))


def test_a_begin_token_is_not_doubled(tiny: cna.Model) -> None:
    lm = CnaLM(tiny, progress=False)
    text = lm.apply_chat_template([{"role": "user", "content": "Hi"}])
    assert text.startswith("<bos>")
    assert lm.tok_encode(text).count(256) == 1


@pytest.mark.parametrize("m", [1.0, -2.0])
def test_the_harness_runs_a_local_task(
    tiny: cna.Model, tiny_hf: Any, circuit: cna.Circuit, tmp_path: Path, m: float
) -> None:
    data = tmp_path / "docs.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    (tmp_path / "small.yaml").write_text(
        f"""
task: small_quiz
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
  cache_dir: {tmp_path / "cache"}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
metadata:
  version: 1.0
"""
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    with tiny.steer(circuit, m):
        results = lm_eval.simple_evaluate(
            CnaLM(tiny, progress=False),
            tasks=["small_quiz"],
            task_manager=manager,
            bootstrap_iters=0,
        )
    right, right_norm = [], []
    with scaled_neurons(tiny_hf, circuit, m):
        for doc in DOCS:
            scores = [
                reference(tiny_hf, *split(f"Question: {doc['question']}\nAnswer:", f" {choice}"))[0]
                for choice in doc["choices"]
            ]
            lengths = [len(choice) for choice in doc["choices"]]
            normed = [s / n for s, n in zip(scores, lengths, strict=True)]
            right.append(scores.index(max(scores)) == doc["answer"])
            right_norm.append(normed.index(max(normed)) == doc["answer"])
            sample = next(
                s
                for s in results["samples"]["small_quiz"]
                if s["doc"]["question"] == doc["question"]
            )
            got = [float(r[0][0]) for r in sample["resps"]]
            assert got == pytest.approx(scores, abs=1e-4)
    values = results["results"]["small_quiz"]
    assert values["acc,none"] == pytest.approx(sum(right) / len(DOCS))
    assert values["acc_norm,none"] == pytest.approx(sum(right_norm) / len(DOCS))
    assert results["config"]["model_id"] == "llama"


def test_the_harness_makes_the_model_by_name(
    exports: Any, circuit: cna.Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    circuit.save(tmp_path / "circuit.json")
    folder = exports("llama")
    lm = lm_eval.api.registry.get_model("cna").create_from_arg_string(
        f"pretrained={folder},circuit={tmp_path / 'circuit.json'},multiplier=0.5",
        {"batch_size": 8, "max_batch_size": None, "device": "cuda:0"},
    )
    assert isinstance(lm, CnaLM)
    assert (lm.multiplier, lm.batch_size, len(lm.circuit)) == (0.5, 8, len(circuit))
    assert lm_eval.api.registry.get_model("dummy") is not None


def test_arguments_that_are_not_the_bridges_are_refused(tiny: cna.Model) -> None:
    with pytest.raises(ValueError, match=r"^CnaLM: .*got 'multiplyer'; did you mean 'multiplier'"):
        CnaLM(tiny, multiplyer=0.5)
    with pytest.raises(ValueError, match=r"got 'gpu_memory_utilization'; leave it out"):
        lm_eval.api.registry.get_model("cna").create_from_arg_obj(
            {"pretrained": tiny, "gpu_memory_utilization": 0.9},
            {"batch_size": 8, "max_batch_size": 64, "device": "cpu"},
        )
