"""The tables of the documentation, from what the benchmarks gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LABELS = {
    "cna": "cna",
    "before": "cna before fused graphs and shared layers",
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


def contenders(
    header: list[str],
    rows: dict[str, Any],
    labels: dict[str, str],
    needs: str,
    cells: Callable[[Any], list[str]],
) -> str:
    """A line a contender: time, ratio to cna, cells of its own, memory; or why it has none.

    `header` names the cells; `needs` is what an entry has that did the job.
    """
    names = ["contender", "seconds", "time of cna ×", *header, "peak MiB", "page faults"]
    lines = []
    for name, entry in rows.items():
        if entry["error"] or needs not in entry:
            lines.append([labels[name], *failure(entry, len(names) - 1)])
            continue
        lines.append(
            [
                labels[name],
                between(entry["seconds"], 2),
                between(entry["times_cna"], 2, "×"),
                *cells(entry),
                f"{entry['peak_mib']:.0f}",
                f"{entry['page_faults']:,.0f}",
            ]
        )
    return table(names, lines)


def show_discovery(r: dict[str, Any]) -> str:
    def cells(entry: Any) -> list[str]:
        return [f"{entry['shared_neurons']} of {r['k']}", f"{entry['delta_difference']:.1e}"]

    header = ["same neurons", "delta differs by"]
    text = contenders(header, r["rows"], LABELS, "shared_neurons", cells)
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
    if "pairs" not in r:
        return table(["run", "ms a step"], [["cna", *failure(r["rows"]["cna"], 1)]])
    lines = [
        [
            name,
            between(entry["seconds"], 1, "", 1000),
            between(entry["ratio"], 3),
            f"{1000 * entry['fastest']:.1f}",
            f"{entry['fastest_ratio']:.3f}",
        ]
        for name, entry in r["rows"].items()
    ]
    return (
        table(
            ["run", "ms a step", "of unsteered", "ms, each at its fastest", "of unsteered"], lines
        )
        + f"\n\n{r['batch_rows']} rows, which take {r['strengths']} strengths in turn; wanted: 1.01 of "
        f"unsteered. {r['pairs']} runs of {r['tokens']} tokens of each, in turns in one process: "
        f"medians of runs, and means of steps, each as fast as in the fastest of the {r['pairs']}."
    )


def show_answers(r: dict[str, Any]) -> str:
    labels = LABELS | {
        "cna": "cna, all rows together",
        "hooks": "`generate` with hooks, batched, strength by strength",
        "hooks-one-by-one": "`generate` with hooks, one prompt at a time",
    }
    total = r["prompts"] * len(r["strengths"])
    for name, entry in r["rows"].items():
        if entry.get("extrapolated_by", 1.0) != 1.0 and "agreement" in entry:
            labels[name] += f" (extrapolated from {entry['measured_answers']} of {total} answers)"

    def cells(entry: Any) -> list[str]:
        same = entry["agreement"]
        return [
            f"{total * r['tokens'] / entry['seconds']['median']:.0f}",
            f"{100 * same['answers']:.0f} % ({100 * same['tokens']:.1f} % of tokens)",
        ]

    return (
        contenders(["tokens/s", "same answers"], r["rows"], labels, "agreement", cells)
        + f"\n\n{r['prompts']} prompts × {len(r['strengths'])} strengths × {r['tokens']} tokens, "
        f"greedy, end tokens ignored so that all do the same work; {r['turns']} turns."
    )


def show_scores(r: dict[str, Any]) -> str:
    labels = LABELS | {"hooks": "hooks, batches of 32 of like lengths, strength by strength"}

    def cells(entry: Any) -> list[str]:
        return [f"{entry['difference']:.1e} of {entry['largest']:.3g}"]

    return (
        contenders(["numbers differ by"], r["rows"], labels, "difference", cells)
        + f"\n\n{r['texts']} texts of {r['tokens']} tokens under {len(r['strengths'])} strengths."
    )


def show_anchor(r: dict[str, Any]) -> str:
    if r["error"]:
        return f"Not measured: {r['error']}."
    lines = []
    for run in r["runs"]:
        what = "reading a prompt" if run["n_prompt"] else "writing, one row"
        lines.append(
            [
                f"{what} ({run['n_prompt'] or run['n_gen']} tokens)",
                run["model_type"],
                f"{run['avg_ts']:.0f} ({run['avg_ts'] - run['stddev_ts']:.0f}"
                f"–{run['avg_ts'] + run['stddev_ts']:.0f})",
            ]
        )
    return table(["llama.cpp", "weights", "tokens/s (± a standard deviation)"], lines)


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
