"""What is measured: each benchmark gives its rows, by contender."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
from typing import Any

import numpy as np
from processes import PEERS, Bench, Failed, Worker, take_turns

STRENGTHS = [-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0]


def summary(values: list[float]) -> dict[str, float]:
    """Median, least and largest."""
    return {"median": statistics.median(values), "least": min(values), "largest": max(values)}


def agreement(answers: list[list[int]], reference: list[list[int]]) -> dict[str, float]:
    """Shares of answers equal to the reference, and of tokens before the first difference."""
    equal, tokens, total = 0, 0, 0
    for a, b in zip(answers, reference, strict=True):
        same = 0
        while same < min(len(a), len(b)) and a[same] == b[same]:
            same += 1
        equal, tokens, total = equal + (a == b), tokens + same, total + len(b)
    return {"answers": equal / len(reference), "tokens": tokens / total}


def row(
    worker: Worker, runs: list[dict[str, Any]], cna: list[dict[str, Any]], scale: float = 1.0
) -> dict[str, Any]:
    """A contender's line: times (a subset's times `scale`), ratios of turns to cna, versions."""
    out: dict[str, Any] = {"versions": worker.versions, "error": worker.error}
    if runs and worker.error is None:
        seconds = [r["seconds"] * scale for r in runs]
        ratios = [s / c["seconds"] for s, c in zip(seconds, cna, strict=False)]
        out |= {"seconds": summary(seconds), "all_seconds": seconds, "extrapolated_by": scale}
        out |= {"times_cna": summary(ratios)} if ratios else {}
        out["peak_mib"] = max(r.get("peak_mib", 0.0) for r in runs)
        out["page_faults"] = statistics.median(r.get("page_faults", 0) for r in runs) * scale
    return out


# --- the benchmarks -----------------------------------------------------------------------------


def contenders(bench: Bench, *others: str) -> list[str]:
    """cna, the version before where its environment is given, tuned hooks, and others."""
    before = ["before"] if bench.args.before_python else []
    return ["cna", *before, "hooks", *others]


def discovery(bench: Bench) -> dict[str, Any]:
    """Prompts to circuit, and cna's share of the machine's own matrix-multiply rate."""
    sides = {side: bench.inputs["ids"][side] for side in ("positive", "negative")}
    peers = [peer + tuned for peer in PEERS for tuned in ("", "-tuned")]
    return discover(bench, sides, contenders(bench, "hooks-one-by-one", *peers))


def pairs(bench: Bench) -> dict[str, Any]:
    """Likewise of minimal pairs: sentences of a few tokens, whose sides differ in a word."""
    sides = {side: bench.inputs["ids"][f"pairs_{side}"] for side in ("positive", "negative")}
    return discover(bench, sides, contenders(bench, "hooks-one-by-one"))


def discover(bench: Bench, sides: dict[str, Any], names: list[str]) -> dict[str, Any]:
    k = bench.inputs["k"]
    few = {side: ids[:16] for side, ids in sides.items()}
    shares: list[float] = []
    rates: list[float] = []
    with bench.workers(names) as workers:
        for worker in workers.values():
            with contextlib.suppress(Failed):
                worker.do("discover", k=k, **few)
        work = workers["cna"].do("work", **sides)

        def job(worker: Worker) -> Any:
            before = None
            if worker.name == "cna":
                before = worker.do("matmul", shapes=work["shapes"], seconds=0.7)
            result = worker.do("discover", k=k, save=f"delta-{worker.name}.npy", **sides)
            if before is not None:
                after = worker.do("matmul", shapes=work["shapes"], seconds=0.7)
                rates.append((before + after) / 2)
                shares.append(work["multiply_adds"] / result["seconds"] / rates[-1])
            return result

        runs = take_turns(workers, bench.args.turns, job)
        rows = {name: row(workers[name], runs[name], runs["cna"]) for name in names}
    if not runs["cna"]:
        return {"rows": rows}
    mine = runs["cna"][-1]["neurons"]
    place = tuple(np.array(mine).T)
    delta = np.load(bench.folder / "delta-cna.npy")[place]
    for name in names:
        if not runs[name] or rows[name]["error"]:
            continue
        theirs = runs[name][-1]["neurons"]
        shared = len({tuple(n) for n in mine} & {tuple(n) for n in theirs})
        other = np.load(bench.folder / f"delta-{name}.npy")[place]
        rows[name] |= {"shared_neurons": shared, "same_order": theirs == mine}
        rows[name]["delta_difference"] = float(np.abs(other - delta).max() / np.abs(delta).max())
    return {
        "rows": rows,
        "prompts": [len(sides["positive"]), len(sides["negative"])],
        "k": k,
        "work": work,
        "matmul_rate": summary(rates),
        "share_of_matmul_rate": summary(shares),
    }


def step(bench: Bench) -> dict[str, Any]:
    """Seconds of a decoding step whose rows have nine strengths, against unsteered ones."""
    args = bench.args
    with bench.workers(["cna"]) as workers:
        worker = workers["cna"]
        ids = bench.inputs["ids"]["evaluation"][: args.step_rows]
        how = {"new": args.step_tokens, "pairs": args.step_pairs, "sizes": args.step_neurons}
        try:
            found = worker.do("steps", ids=ids, strengths=STRENGTHS, **how)
        except Failed as error:
            return {"rows": {"cna": {"error": str(error), "versions": worker.versions}}}
        about = {"versions": worker.versions, "error": None}
    steps = found.pop("seconds_per_step")
    times = {name: [statistics.median(run) for run in runs] for name, runs in steps.items()}
    plain = times["unsteered"]
    # What disturbs a step makes it longer: each at its fastest is what it costs by itself.
    fastest = {
        name: sum(map(min, zip(*runs, strict=True))) / len(runs[0]) for name, runs in steps.items()
    }
    return {
        "rows": {
            name: {
                "seconds": summary(runs),
                "ratio": summary([a / b for a, b in zip(runs, plain, strict=True)]),
                "fastest": fastest[name],
                "fastest_ratio": fastest[name] / fastest["unsteered"],
                **about,
            }
            for name, runs in times.items()
        },
        "strengths": len(STRENGTHS),
        "tokens": args.step_tokens,
        "pairs": args.step_pairs,
        **found,
    }


def answer(
    bench: Bench, prompts: int, strengths: list[float], turns: int, some: list[tuple[int, int]]
) -> dict[str, Any]:
    """Generation of prompts x strengths; one by one only for `some` (strength, prompt) places."""
    new = bench.args.new_tokens
    ids = bench.inputs["ids"]["evaluation"][:prompts]
    names = contenders(bench, "hooks-one-by-one")
    by_strength: dict[int, list[int]] = {}
    for s, p in some:
        by_strength.setdefault(s, []).append(p)

    def one_by_one(worker: Worker) -> dict[str, Any]:
        out: dict[str, Any] = {"seconds": 0.0, "found": [], "peak_mib": 0.0, "page_faults": 0}
        for s, which in by_strength.items():
            part = worker.do(
                "generate", ids=[ids[p] for p in which], strengths=[strengths[s]], new=new
            )
            out["seconds"] += part["seconds"]
            out["found"] += part["found"]
            out["page_faults"] += part["page_faults"]
            out["peak_mib"] = max(out["peak_mib"], part["peak_mib"])
        return out

    def job(worker: Worker) -> Any:
        if worker.name == "hooks-one-by-one":
            return one_by_one(worker)
        return worker.do("generate", ids=ids, strengths=strengths, new=new)

    with bench.workers(names) as workers:
        for name, worker in workers.items():
            with contextlib.suppress(Failed):
                few = 1 if name == "hooks-one-by-one" else prompts
                worker.do("generate", ids=ids[:few], strengths=strengths[:1], new=min(new, 4))
        runs = take_turns(workers, turns, job)
        all_answers = prompts * len(strengths)
        scale = {"hooks-one-by-one": all_answers / len(some)}
        rows = {
            name: row(workers[name], runs[name], runs["cna"], scale.get(name, 1.0))
            for name in names
        }
    places = [s * prompts + p for s, which in by_strength.items() for p in which]
    for name in names:
        if runs["cna"] and runs[name] and not rows[name]["error"]:
            mine = runs["cna"][-1]["found"]
            if name == "hooks-one-by-one":
                mine = [mine[i] for i in places]
            rows[name]["agreement"] = agreement(runs[name][-1]["found"], mine)
            rows[name]["measured_answers"] = len(mine)
    return {"rows": rows, "prompts": prompts, "strengths": strengths, "tokens": new, "turns": turns}


def generation(bench: Bench) -> dict[str, Any]:
    """Steered answers (m = 0): batched, batched with hooks, one prompt at a time with hooks."""
    n = bench.args.generation_prompts
    some = [(0, p) for p in range(0, n, max(1, n // bench.args.one_by_one))]
    return answer(bench, n, [0.0], bench.args.turns, some)


def sweep(bench: Bench) -> dict[str, Any]:
    """Nine strengths: one run for all rows, strength by strength, and one prompt at a time."""
    n = bench.args.sweep_prompts
    wanted = min(bench.args.one_by_one, n * len(STRENGTHS))
    some = [(i % len(STRENGTHS), (i * 5) % n) for i in range(wanted)]
    return answer(bench, n, STRENGTHS, max(2, bench.args.turns - 1), sorted(set(some)))


def quiz(bench: Bench) -> dict[str, Any]:
    """Choices of a quiz under nine strengths."""
    return score(bench, "likelihood", bench.inputs["ids"]["quiz"])


def kl(bench: Bench) -> dict[str, Any]:
    """Benign KL of nine strengths over answers of the unsteered model."""
    return score(bench, "divergence", bench.inputs["ids"]["kl"])


def score(bench: Bench, what: str, texts: list[Any]) -> dict[str, Any]:
    names = contenders(bench)
    with bench.workers(names) as workers:
        for worker in workers.values():
            with contextlib.suppress(Failed):
                worker.do(what, pairs=texts[:8], strengths=STRENGTHS[:2])
        runs = take_turns(
            workers,
            bench.args.turns,
            lambda worker: worker.do(what, pairs=texts, strengths=STRENGTHS),
        )
        rows = {name: row(workers[name], runs[name], runs["cna"]) for name in names}
    for name in names:
        if runs["cna"] and runs[name] and not rows[name]["error"]:
            mine, other = (np.array(runs[n][-1]["found"]) for n in ("cna", name))
            rows[name]["difference"] = float(np.abs(mine - other).max())
            rows[name]["largest"] = float(np.abs(mine).max())
    tokens = sum(len(prompt) + len(end) for prompt, end in texts)
    return {"rows": rows, "texts": len(texts), "tokens": tokens, "strengths": STRENGTHS}


def anchor(bench: Bench) -> dict[str, Any]:
    """llama.cpp's own benchmark on the default model: tokens a second, read and written."""
    if not bench.args.llama_bench:
        return {"rows": {}, "error": "pass --llama-bench and --gguf"}
    words = [bench.args.llama_bench, "-m", bench.args.gguf, "-t", str(bench.args.threads)]
    words += ["-p", "512", "-n", "64", "-r", str(bench.args.turns), "-o", "json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    if done.returncode:
        return {"rows": {}, "error": done.stderr.strip().splitlines()[-1][:200]}
    return {"rows": {}, "error": None, "runs": json.loads(done.stdout)}


def memory(bench: Bench) -> dict[str, Any]:
    """Peak memory of streaming discoveries of several sizes, each in a new process."""
    rows: dict[str, Any] = {}
    for n in bench.args.memory_prompts:
        with bench.workers(["memory"]) as workers:
            worker = workers["memory"]
            try:
                rows[str(n)] = worker.do("stream", n=n) | {"error": None}
            except Failed as error:
                rows[str(n)] = {"error": str(error)}
            rows[str(n)]["versions"] = worker.versions
    return {"rows": rows, "model": "random Llama of 8 layers x 2048 neurons, float32"}
