"""Several processes find the circuit that one finds, and a killed run goes on from what it kept."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cna
import numpy as np
import pandas as pd
import pytest
import torch
from cna import distributed, ranks
from cna.distributed import discover_distributed, universal_neurons_distributed
from cna.many import moments
from cna.many import sweep as shared_sweep
from cna.many.chunks import Shards, split
from conftest import PROMPTS
from processes import run_ranks, torchrun

POSITIVE = [f"{p} yes {i}" for i, p in enumerate(PROMPTS * 4)]
NEGATIVE = [f"no {i}: {p}" for i, p in enumerate(PROMPTS * 3)][:21]
CHUNK = 4  # 32 prompts: 8 chunks
CHUNKS = 8
OPTIONS: dict[str, Any] = {"k": 12, "chunk": CHUNK, "progress": False}

WORKER = """
import json, os, signal, sys, time
import cna
from cna import distributed
from cna.many import moments
folder, job, out, options = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
bad_rank, bad_chunk, deed = options.pop("misbehave", (None, None, None))
rank = int(os.environ["RANK"])
pack, done = moments._pack, []

def watched(sides):
    done.append(0)
    if rank == bad_rank and len(done) > bad_chunk:
        if deed == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    return pack(sides)

moments._pack = watched
model = cna.load(folder)
try:
    if job == "discover":
        circuit = distributed.discover_distributed(model, *options.pop("prompts"), **options)
        if circuit is not None:
            circuit.save(out)
    else:
        circuit = cna.Circuit.load(options.pop("circuit"))
        task = cna.tasks.load(options.pop("task"))
        result = distributed.sweep_distributed(model, circuit, task, out=out, **options)
        assert (result is None) == (rank != 0)
except RuntimeError as error:
    print(error, file=sys.stderr)
    sys.exit(3)
"""


def run(
    world: int, tmp_path: Path, *arguments: str, timeout: str = "120"
) -> list[subprocess.CompletedProcess[str]]:
    """The worker once per rank."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    return run_ranks(world, script, *arguments, timeout=90, CNA_DISTRIBUTED_TIMEOUT=timeout)


def discover_ranks(
    world: int, exports: Any, tmp_path: Path, timeout: str = "120", **options: Any
) -> list[subprocess.CompletedProcess[str]]:
    arguments = json.dumps(OPTIONS | {"prompts": [POSITIVE, NEGATIVE]} | options)
    out = str(tmp_path / f"{world}.json")
    return run(world, tmp_path, str(exports("llama")), "discover", out, arguments, timeout=timeout)


def same_circuit(a: cna.Circuit, b: cna.Circuit, tolerance: float = 1e-6) -> None:
    assert {(n.layer, n.index) for n in a} == {(n.layer, n.index) for n in b}
    deltas = {(n.layer, n.index): n.delta for n in b}
    scale = max(abs(n.delta) for n in b)
    assert all(abs(n.delta - deltas[n.layer, n.index]) <= tolerance * scale for n in a)
    assert a.universal_removed == b.universal_removed
    assert a.provenance == b.provenance


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the workers have: sums of other numbers of threads differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_process(tiny: cna.Model) -> cna.Circuit:
    circuit = discover_distributed(tiny, POSITIVE, NEGATIVE, **OPTIONS)
    assert circuit is not None
    return circuit


def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each chunk that is computed."""
    seen: list[int] = []
    pack = moments._pack
    monkeypatch.setattr(moments, "_pack", lambda sides: (seen.append(0), pack(sides))[1])
    return seen


def test_one_process_finds_what_discover_finds(tiny: cna.Model, one_process: cna.Circuit) -> None:
    """Chunks are other batches than those of one run: float32 products round otherwise (with AVX2 the
    largest delta differs by 1.03e-6).
    """
    whole = cna.discover(tiny, POSITIVE, NEGATIVE, k=12, progress=False)
    same_circuit(one_process, whole, tolerance=4e-6)


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.nightly), 4])
def test_2_and_4_processes_find_the_circuit_of_one(
    world: int, exports: Any, tmp_path: Path, one_process: cna.Circuit
) -> None:
    for done in discover_ranks(world, exports, tmp_path):
        assert done.returncode == 0, done.stderr
    circuit = cna.Circuit.load(tmp_path / f"{world}.json")
    same_circuit(circuit, one_process)
    assert [(n.layer, n.index) for n in circuit] == [(n.layer, n.index) for n in one_process]


def test_a_killed_rank_is_named_and_its_finished_chunks_are_used(
    exports: Any,
    tmp_path: Path,
    tiny: cna.Model,
    one_process: cna.Circuit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shards = tmp_path / "shards"
    done = discover_ranks(
        2, exports, tmp_path, resume=str(shards), misbehave=[1, 2, "die"], universal=None
    )
    assert [d.returncode for d in done] == [3, -9]
    assert "discover: expected rank 1 of 2 to answer, got no sign of it" in done[0].stderr
    assert not (tmp_path / "2.json").exists()
    kept = len(list(shards.glob("moments-*.npz")))
    assert 4 <= kept < CHUNKS and not list(shards.glob(".*"))

    seen = computed(monkeypatch)  # another number of processes goes on
    options = OPTIONS | {"universal": None, "resume": shards}
    again = discover_distributed(tiny, POSITIVE, NEGATIVE, **options)
    assert again is not None and len(seen) == CHUNKS - kept
    options.pop("resume")
    same_circuit(again, discover_distributed(tiny, POSITIVE, NEGATIVE, **options), 0.0)


def test_a_rank_that_hangs_is_named(exports: Any, tmp_path: Path) -> None:
    done = discover_ranks(
        2, exports, tmp_path, misbehave=[1, 1, "hang"], universal=None, timeout="10"
    )
    assert done[0].returncode == 3
    assert "expected rank 1 of 2 to answer" in done[0].stderr


def test_torchrun_discovers_on_the_command_line(
    exports: Any, tmp_path: Path, tiny: cna.Model
) -> None:
    for name, prompts in (("p.txt", POSITIVE), ("n.txt", NEGATIVE)):
        (tmp_path / name).write_text("\n".join(prompts))
    out = tmp_path / "c.json"
    done = torchrun(
        2,
        *("-m", "cna", "discover", "--model", str(exports("llama"))),
        *("--positive", str(tmp_path / "p.txt"), "--negative", str(tmp_path / "n.txt")),
        *("--k", "12", "--out", str(out), "--resume", str(tmp_path / "shards")),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"wrote {out}") == 1
    same_circuit(
        cna.Circuit.load(out), cna.discover(tiny, POSITIVE, NEGATIVE, k=12, progress=False)
    )


def test_torchrun_ends_and_names_a_killed_rank(exports: Any, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    options = OPTIONS | {"prompts": [POSITIVE, NEGATIVE], "universal": None}
    done = torchrun(
        2,
        *(str(script), str(exports("llama")), "discover", str(tmp_path / "c.json")),
        json.dumps(options | {"misbehave": [1, 2, "die"]}),
    )
    assert done.returncode != 0
    assert "rank      : 1" in done.stderr or "rank 1 of 2" in done.stderr, done.stderr
    assert not (tmp_path / "c.json").exists()


# --- what is kept -----------------------------------------------------------------------------------


def test_finished_chunks_are_not_computed_again(
    tiny: cna.Model, tmp_path: Path, one_process: cna.Circuit, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = computed(monkeypatch)
    options = OPTIONS | {"resume": tmp_path}
    first = discover_distributed(tiny, POSITIVE, NEGATIVE, **options)
    assert len(seen) == CHUNKS and first == one_process
    assert discover_distributed(tiny, POSITIVE, NEGATIVE, **options) == one_process
    assert len(seen) == CHUNKS
    damaged, lost = sorted(tmp_path.glob("moments-*.npz"))[2:4]
    damaged.write_bytes(damaged.read_bytes()[:200])
    lost.unlink()
    assert discover_distributed(tiny, POSITIVE, NEGATIVE, **options) == one_process
    assert len(seen) == CHUNKS + 2


def test_chunks_of_other_prompts_are_not_used(
    tiny: cna.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = computed(monkeypatch)
    options = OPTIONS | {"resume": tmp_path, "universal": None}
    discover_distributed(tiny, POSITIVE, NEGATIVE, **options)
    discover_distributed(tiny, NEGATIVE, POSITIVE, **options)
    assert len(seen) == 2 * CHUNKS


def test_a_shard_of_another_run_or_size_is_nothing(tmp_path: Path) -> None:
    values = torch.arange(6, dtype=torch.float64)
    Shards(tmp_path, "moments", "a", 2).save(1, values)
    assert torch.equal(Shards(tmp_path, "moments", "a", 2).load(1, 6), values)  # type: ignore[arg-type]
    assert Shards(tmp_path, "moments", "a", 2).load(0, 6) is None
    assert Shards(tmp_path, "moments", "a", 2).load(1, 7) is None
    assert Shards(tmp_path, "moments", "b", 2).load(1, 6) is None
    path = Shards(tmp_path, "moments", "a", 2).path(1)
    path.rename(Shards(tmp_path, "moments", "b", 2).path(1))  # the fingerprint inside counts
    assert Shards(tmp_path, "moments", "b", 2).load(1, 6) is None


def test_resuming_a_steered_model_is_refused(
    tiny: cna.Model, tmp_path: Path, one_process: cna.Circuit
) -> None:
    with tiny.steer(one_process), pytest.raises(ValueError, match="expected an unsteered model"):
        discover_distributed(tiny, POSITIVE, NEGATIVE, universal=None, resume=tmp_path)


@pytest.mark.parametrize(("n", "parts"), [(1, 1), (7, 3), (64, 4), (10, 10)])
def test_split_covers_everything_evenly(n: int, parts: int) -> None:
    pieces = [range(n)[s] for s in split(n, parts)]
    assert [i for piece in pieces for i in piece] == list(range(n))
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1 and min(map(len, pieces)) >= 1


def test_few_prompts_of_one_set_give_few_chunks(tiny: cna.Model) -> None:
    options = OPTIONS | {"universal": None, "k": 5}
    circuit = discover_distributed(tiny, POSITIVE, NEGATIVE[:1], **options)
    assert circuit is not None
    plain = cna.discover(tiny, POSITIVE, NEGATIVE[:1], k=5, universal=None, progress=False)
    same_circuit(circuit, plain)


def test_universal_neurons_are_those_of_one_pass(tiny: cna.Model) -> None:
    plain = cna.universal_neurons(tiny, progress=False)
    assert universal_neurons_distributed(tiny, chunk=5, progress=False) == plain
    low = {"share": 0.3, "top_fraction": 0.02, "progress": False}
    some = cna.universal_neurons(tiny, POSITIVE, **low)
    assert len(some) > 0
    assert universal_neurons_distributed(tiny, POSITIVE, chunk=7, **low) == some


def test_is_distributed_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert not ranks.is_distributed()
    assert ranks.device_of_rank("cuda") == "cuda"
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert ranks.is_distributed()
    assert ranks.device_of_rank("cuda") == "cuda:1"
    assert ranks.device_of_rank("cpu") == "cpu"


# --- sweeps -----------------------------------------------------------------------------------------

SWEEP: dict[str, Any] = {
    "multipliers": [0.0, 2.0],
    "baselines": ["random"],
    "random_seeds": [0, 1],
    "max_new_tokens": 6,
    "batch_size": 8,
    "kl_prompts": 3,
    "perplexity": False,
    "quiz_questions": 0,
    "progress": False,
}


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    rows = [(p, "positive") for p in POSITIVE[:6]] + [(p, "negative") for p in NEGATIVE[:6]]
    rows += [(f"Say {i} now", "evaluation") for i in range(7)]
    rows += [(f"Count to {i}", "benign") for i in range(5)]
    pd.DataFrame(rows, columns=["prompt", "label"]).to_csv(tmp_path / "task.csv", index=False)
    return tmp_path / "task.csv"


def test_two_processes_sweep_as_one(
    exports: Any, tiny: cna.Model, tmp_path: Path, task_file: Path, one_process: cna.Circuit
) -> None:
    one_process.save(tmp_path / "c.json")
    plain = cna.sweep(tiny, one_process, cna.tasks.load(str(task_file)), **SWEEP)
    arguments = SWEEP | {"circuit": str(tmp_path / "c.json"), "task": str(task_file)}
    out = tmp_path / "run"
    for done in run(2, tmp_path, str(exports("llama")), "sweep", str(out), json.dumps(arguments)):
        assert done.returncode == 0, done.stderr
    table = pd.read_csv(out / "table.csv")
    plain.table.to_csv(tmp_path / "plain.csv", index=False)
    pd.testing.assert_frame_equal(table, pd.read_csv(tmp_path / "plain.csv"), rtol=1e-5)
    got = pd.read_csv(out / "answers.csv", keep_default_na=False)["answer"]
    assert list(got) == [a.replace("\r\n", "\n") for a in plain.answers["answer"]]
    assert not list(out.glob("answers-*.jsonl"))


def test_answers_of_a_killed_run_of_more_ranks_are_taken_over(
    tiny: cna.Model,
    tmp_path: Path,
    task_file: Path,
    one_process: cna.Circuit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = cna.tasks.load(str(task_file))
    out = tmp_path / "run"
    first = distributed.sweep_distributed(tiny, one_process, task, out=out, **SWEEP)
    assert first is not None
    lines = (out / "answers.jsonl").read_text().splitlines()
    (out / "answers.jsonl").unlink()
    for rank, part in enumerate((lines[1:11], lines[11:25], [])):  # the rest is lost
        text = "\n".join([lines[0], *part]) + "\n"
        (out / f"answers-{rank}.jsonl").write_text(text + ('{"arm": "cn' if rank == 1 else ""))
    jobs: list[int] = []
    real = shared_sweep.answer_jobs
    monkeypatch.setattr(
        shared_sweep,
        "answer_jobs",
        lambda m, j, *a, **k: (jobs.append(len(j)), real(m, j, *a, **k)),
    )
    again = distributed.sweep_distributed(tiny, one_process, task, out=out, **SWEEP)
    assert again is not None and jobs == [len(lines) - 1 - 24]
    pd.testing.assert_frame_equal(again.table, first.table, rtol=1e-5)
    assert np.array_equal(again.answers["answer"], first.answers["answer"])


def test_a_sweep_of_several_processes_needs_a_folder(
    tiny: cna.Model, task_file: Path, one_process: cna.Circuit
) -> None:
    with pytest.raises(ValueError, match="expected out="):
        distributed.sweep_distributed(tiny, one_process, cna.tasks.load(str(task_file)))
