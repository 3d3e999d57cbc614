"""Measures cna and its peers, each in a process of its own, and writes the tables of the docs.

    python benchmarks/run.py --peers-python PEERS/bin/python

Contenders take turns (A B C, A B C, ...), so that a slow minute of the machine hits all of them;
tables give medians, the range over the turns, and ratios of turns to cna's own. A contender that
cannot be installed or fails stays in the table with its error. README.md says how to set it up.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pages import fill

HERE = Path(__file__).resolve().parent
TIMEOUT = 900.0  # seconds for one reply
STRENGTHS = [-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0]
PEERS = ("nnsight", "pyvene", "steering-vectors")
LABELS = {
    "cna": "cna",
    "hooks": "hand-written hooks, tuned: batches of 32, like lengths together, no logits",
    "hooks-one-by-one": "hand-written hooks, one prompt at a time",
    "nnsight": "nnsight, batches of 32",
    "nnsight-tuned": "nnsight, tuned: like lengths together, stopped behind the last neurons",
    "pyvene": "pyvene, batches of 32",
    "pyvene-tuned": "pyvene, tuned: like lengths together, logits of the last token only",
    "steering-vectors": "steering-vectors (`record_activations` on both factors), batches of 32",
    "steering-vectors-tuned": "steering-vectors, tuned: like lengths together, no copies, "
    "logits of the last token only",
}


class Failed(Exception):
    """What a contender said when it could not do its job."""


class Worker:
    """A contender's process; see worker.py."""

    def __init__(
        self, name: str, python: str | None, folder: Path, threads: int, device: str, log: Any
    ) -> None:
        self.name = name
        self.versions: dict[str, str] = {}
        self.error: str | None = None
        self.process: subprocess.Popen[bytes] | None = None
        if python is None:
            self.error = "no environment: pass --peers-python"
            return
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment |= {f"{x}_NUM_THREADS": str(threads) for x in ("OMP", "MKL", "OPENBLAS")}
        environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment |= {"PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error"}
        try:
            self.process = subprocess.Popen(
                [python, str(HERE / "worker.py"), name, str(folder), str(threads), device],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env=environment,
            )
        except OSError as error:
            self.error = str(error)

    def wait(self) -> None:
        """Waits until the model is loaded."""
        try:
            if self.process is not None:
                self.versions = self._read()["versions"]
        except (OSError, Failed) as error:
            self.error = str(error)
            self.close()

    def _read(self) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        line, end = b"", time.monotonic() + TIMEOUT
        while not line.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Failed(f"no answer within {TIMEOUT:.0f} s")
            part = os.read(self.process.stdout.fileno(), 1 << 20)
            if not part:
                raise Failed(f"its process ended (status {self.process.wait()})")
            line += part
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise Failed(reply["error"])
        return reply

    def do(self, what: str, **job: Any) -> Any:
        """The job's result; Failed with what went wrong."""
        if self.process is None or self.process.stdin is None or self.error:
            raise Failed(self.error or "not running")
        try:
            self.process.stdin.write(json.dumps({"do": what, **job}).encode() + b"\n")
            return self._read()["result"]
        except (OSError, Failed) as error:
            self.error = str(error)
            self.close()
            raise Failed(self.error) from None

    def close(self) -> None:
        if self.process is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()  # type: ignore[union-attr]
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None


class Bench:
    """Settings, the folder with model and prompts, and how to start workers."""

    def __init__(self, args: argparse.Namespace, folder: Path, log: Any) -> None:
        self.args, self.folder, self.log = args, folder, log
        worker = self.start("prepare")
        worker.wait()
        try:
            sizes = {"discovery": args.discovery_prompts}
            self.inputs = worker.do("prepare", name=args.model, sizes=sizes)
        finally:
            worker.close()

    def start(self, name: str) -> Worker:
        peer = name.removesuffix("-tuned") in PEERS
        python = self.args.peers_python if peer else sys.executable
        return Worker(name, python, self.folder, self.args.threads, self.args.device, self.log)

    @contextlib.contextmanager
    def workers(self, names: list[str]) -> Any:
        """Starts one process for each name, loads the models, and ends them afterwards."""
        found: dict[str, Worker] = {}
        try:
            say(f"  starting {', '.join(names)}")
            for name in names:
                found[name] = self.start(name)
            for worker in found.values():
                worker.wait()
                if worker.error:
                    say(f"  {worker.name} failed: {worker.error}")
            yield found
        finally:
            for worker in found.values():
                worker.close()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def take_turns(workers: dict[str, Worker], turns: int, job: Any) -> dict[str, list[Any]]:
    """job(worker) of every worker, `turns` times around, in changing order; errors end a worker."""
    found: dict[str, list[Any]] = {name: [] for name in workers}
    for turn in range(turns):
        for name in list(workers) if turn % 2 == 0 else list(reversed(workers)):
            if workers[name].error:
                continue
            time.sleep(0.3)  # threads of the one before have gone to sleep
            try:
                found[name].append(job(workers[name]))
                say(f"  turn {turn + 1}: {name} {found[name][-1]['seconds']:.2f} s")
            except Failed as error:
                say(f"  turn {turn + 1}: {name} failed: {error}")
    return found


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
    return out


# --- the benchmarks -----------------------------------------------------------------------------


def discovery(bench: Bench) -> dict[str, Any]:
    """Prompts to circuit, and cna's share of the machine's own matrix-multiply rate."""
    sides = {side: bench.inputs["ids"][side] for side in ("positive", "negative")}
    k = bench.inputs["k"]
    names = ["cna", "hooks", "hooks-one-by-one"]
    names += [peer + tuned for peer in PEERS for tuned in ("", "-tuned")]
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
    """Seconds of a decoding step with a circuit at m = 0, against none."""
    args = bench.args
    with bench.workers(["cna"]) as workers:
        worker = workers["cna"]
        ids = bench.inputs["ids"]["evaluation"][: args.step_rows]
        try:
            found = worker.do("steps", ids=ids, new=args.step_tokens, pairs=args.step_pairs)
        except Failed as error:
            return {"rows": {"cna": {"error": str(error), "versions": worker.versions}}}
        versions = worker.versions
    steps = found.pop("seconds_per_step")
    plain = [statistics.median(run) for run in steps["unsteered"]]
    steered = [statistics.median(run) for run in steps["steered"]]
    ratios = [a / b for a, b in zip(steered, plain, strict=True)]
    return {
        "rows": {
            "unsteered": {"seconds": summary(plain), "versions": versions, "error": None},
            "steered": {"seconds": summary(steered), "versions": versions, "error": None},
        },
        "ratio": summary(ratios),
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
    names = ["cna", "hooks", "hooks-one-by-one"]
    by_strength: dict[int, list[int]] = {}
    for s, p in some:
        by_strength.setdefault(s, []).append(p)

    def one_by_one(worker: Worker) -> dict[str, Any]:
        out: dict[str, Any] = {"seconds": 0.0, "answers": [], "peak_mib": 0.0}
        for s, which in by_strength.items():
            part = worker.do(
                "generate", ids=[ids[p] for p in which], strengths=[strengths[s]], new=new
            )
            out["seconds"] += part["seconds"]
            out["answers"] += part["answers"]
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
            mine = runs["cna"][-1]["answers"]
            if name == "hooks-one-by-one":
                mine = [mine[i] for i in places]
            rows[name]["agreement"] = agreement(runs[name][-1]["answers"], mine)
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


# --- tables ---------------------------------------------------------------------------------------


def between(s: dict[str, float], digits: int = 2, unit: str = "", factor: float = 1.0) -> str:
    """Median and range of a summary."""
    a, b, c = (f"{s[key] * factor:.{digits}f}" for key in ("median", "least", "largest"))
    return f"{a}{unit} ({b}–{c})"


def table(header: list[str], lines: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines])


def failure(entry: dict[str, Any], cells: int) -> list[str]:
    text = str(entry["error"] or "no result").replace("|", "/").replace("\n", " ")
    return [f"failed: {text}"] + ["–"] * (cells - 1)


def show_discovery(r: dict[str, Any]) -> str:
    lines = []
    for name, entry in r["rows"].items():
        if entry["error"] or "seconds" not in entry or "shared_neurons" not in entry:
            lines.append([LABELS[name], *failure(entry, 5)])
            continue
        lines.append(
            [
                LABELS[name],
                between(entry["seconds"], 2),
                between(entry["times_cna"], 2, "×"),
                f"{entry['shared_neurons']} of {r['k']}",
                f"{entry['delta_difference']:.1e}",
                f"{entry['peak_mib']:.0f}",
            ]
        )
    text = table(
        ["contender", "seconds", "time of cna ×", "same neurons", "delta differs by", "peak MiB"],
        lines,
    )
    if "work" in r:
        w = r["work"]
        text += (
            f"\n\n{sum(r['prompts'])} prompts, {w['tokens_of_prompts']} tokens, of which "
            f"{w['shared_prefix']} in each prompt are common to all; cna computes "
            f"{w['tokens_computed']} tokens, "
            f"{w['multiply_adds'] / 1e9:.1f} × 10⁹ multiply-adds without the padding, at "
            f"**{between(r['share_of_matmul_rate'], 0, ' %', 100)}** of the rate of `torch.matmul` "
            f"at the model's own shapes in the same process "
            f"({between(r['matmul_rate'], 1, '', 1e-9)} × 10⁹ a second)."
        )
    return text


def show_step(r: dict[str, Any]) -> str:
    if "ratio" not in r:
        return table(["run", "ms a step"], [["cna", *failure(r["rows"]["cna"], 1)]])
    lines = [[name, between(entry["seconds"], 1, "", 1000)] for name, entry in r["rows"].items()]
    verdict = "within" if r["ratio"]["median"] <= 1.02 else "not within"
    return (
        table(["run", "ms a step"], lines)
        + f"\n\nSteered over unsteered: **{between(r['ratio'], 3)}**, {verdict} the target of 2 % "
        f"({r['batch_rows']} rows, {r['neurons']} neurons at m = 0, "
        f"{r['pairs']} pairs of runs of {r['tokens']} tokens, in turns in one process)."
    )


def show_answers(r: dict[str, Any]) -> str:
    labels = {
        "cna": "cna, all rows together",
        "hooks": "`generate` with hooks, batched, strength by strength",
        "hooks-one-by-one": "`generate` with hooks, one prompt at a time",
    }
    lines = []
    total = r["prompts"] * len(r["strengths"])
    for name, entry in r["rows"].items():
        label = labels[name]
        if entry["error"] or "agreement" not in entry:
            lines.append([label, *failure(entry, 5)])
            continue
        if entry["extrapolated_by"] != 1.0:
            label += f" (extrapolated from {entry['measured_answers']} of {total} answers)"
        same = entry["agreement"]
        lines.append(
            [
                label,
                between(entry["seconds"], 1),
                between(entry["times_cna"], 2, "×"),
                f"{total * r['tokens'] / entry['seconds']['median']:.0f}",
                f"{100 * same['answers']:.0f} % ({100 * same['tokens']:.1f} % of tokens)",
                f"{entry['peak_mib']:.0f}",
            ]
        )
    return (
        table(
            ["contender", "seconds", "time of cna ×", "tokens/s", "same answers", "peak MiB"], lines
        )
        + f"\n\n{r['prompts']} prompts × {len(r['strengths'])} strengths × {r['tokens']} tokens, "
        f"greedy, end tokens ignored so that all do the same work; {r['turns']} turns."
    )


def show_memory(r: dict[str, Any]) -> str:
    lines = []
    for n, entry in r["rows"].items():
        if entry["error"]:
            lines.append([f"{int(n):,}", *failure(entry, 4)])
            continue
        lines.append(
            [
                f"{int(n):,}",
                f"{entry['after_mib']:.0f}",
                f"{entry['after_mib'] - entry['before_mib']:.1f}",
                f"{entry['activations_mib']:.0f}",
                f"{entry['seconds']:.1f}",
            ]
        )
    return table(
        ["prompts", "peak MiB", "above warm-up, MiB", "all activations would be, MiB", "seconds"],
        lines,
    )


BENCHMARKS = {
    "discovery": ("Discovery", discovery, show_discovery),
    "step": ("Steered step", step, show_step),
    "generation": ("Generation", generation, show_answers),
    "sweep": ("Sweep", sweep, show_answers),
    "memory": ("Memory", memory, show_memory),
}


def cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """The name of the GPU that was measured; empty for the processor."""
    if not device.startswith("cuda"):
        return ""
    import torch

    return torch.cuda.get_device_name(device)


def render(results: dict[str, Any], name: str) -> str:
    """A benchmark's part of the page: its table, and what it ran on."""
    r = results[name]
    m = r["machine"]
    found: dict[str, set[str]] = {}
    for entry in r["rows"].values():
        for package, number in entry.get("versions", {}).items():
            found.setdefault(package, set()).add(number)
    packages = ", ".join(f"{p} {'/'.join(sorted(v))}" for p, v in found.items())
    where = f"{m['device']} beside " if m.get("device") else ""
    return (
        f"{BENCHMARKS[name][2](r)}\n\n"
        f"<sub>{m['date']}; {r.get('model', m['model'])}; {where}{m['cpu']}, {m['threads']} threads of "
        f"{m['cores']} cores, load before {m['load']:.1f}; {packages}. "
        f"Medians; in brackets the least and the largest of the turns.</sub>"
    )


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--peers-python", help="Python of the peers' environment (requirements.txt)")
    p.add_argument("--only", action="append", choices=list(BENCHMARKS), help="may be repeated")
    p.add_argument("--out", type=Path, default=HERE / "results")
    p.add_argument("--docs", type=Path, help="a page to put the tables into: docs/benchmarks.md")
    p.add_argument("--model", default="smollm2", help="or a local Hugging Face folder (Llama)")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--device", default="cpu", help="cuda: every contender on the first GPU")
    p.add_argument("--turns", type=int, default=3)
    p.add_argument("--discovery-prompts", type=int, default=88)
    p.add_argument("--generation-prompts", type=int, default=32)
    p.add_argument("--sweep-prompts", type=int, default=24)
    p.add_argument("--new-tokens", type=int, default=40)
    p.add_argument("--one-by-one", type=int, default=8, help="answers measured one at a time")
    p.add_argument("--step-rows", type=int, default=32)
    p.add_argument("--step-tokens", type=int, default=24)
    p.add_argument("--step-pairs", type=int, default=5)
    p.add_argument("--memory-prompts", type=int, nargs="+", default=[1000, 10000])
    return p.parse_args()


def main() -> None:
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="cna-benchmarks-") as folder,
        (args.out / "log.txt").open("wb") as log,
    ):
        say("preparing")
        load = os.getloadavg()[0]
        if load > 0.5:
            say(f"the machine is busy (load {load:.1f}): do not publish these numbers")
        try:
            bench = Bench(args, Path(folder), log)
        except Failed as error:
            sys.exit(f"run.py: the model could not be prepared: {error}; see {log.name}")
        for name in args.only or BENCHMARKS:
            say(name)
            try:
                found = BENCHMARKS[name][1](bench)
            except Failed as error:
                sys.exit(f"run.py: {name}: cna itself failed: {error}; see {log.name}")
            found["machine"] = {
                "date": datetime.date.today().isoformat(),
                "model": f"{bench.inputs['model']}, float32",
                "cpu": cpu_name(),
                "device": device_name(args.device),
                "cores": os.cpu_count(),
                "threads": args.threads,
                "load": load,
            }
            results[name] = found
            file.write_text(json.dumps(results, indent=1) + "\n")
    ordered = {name: results[name] for name in BENCHMARKS if name in results}
    text = "\n\n".join(f"## {BENCHMARKS[n][0]}\n\n{render(ordered, n)}" for n in ordered)
    (args.out / "benchmarks.md").write_text(text + "\n", encoding="utf-8")
    if args.docs:
        fill(args.docs, {name: render(ordered, name) for name in ordered})
    print(text)
    say(f"took {(time.monotonic() - began) / 60:.1f} minutes; wrote {args.out}")


if __name__ == "__main__":
    main()
