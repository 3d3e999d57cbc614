"""A circuit as a repository of a hub: its file, and a card that says what it is.

circuit.push_to_hub("someone/refusal-circuit", result=result)
circuit = cna.Circuit.from_hub("someone/refusal-circuit")
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._core import Circuit
from ..base.errors import first_line
from ..base.later import pd

FILE = "circuit.json"
_EFFECTS = ("method", "layer", "strength", "n", "rate", "other", "broken", "kl_benign")


def card(circuit: Circuit, result: Any = None, *, title: str = "", text: str = "") -> str:
    """The README of a hub repository: what the circuit is, how found, its effects, limits, serving.

    Args:
        result: a `SweepResult`, or a sweep's or tune's folder, whose table says what steering did.
        title, text: a heading of your own, and what else is to be said.
    Returns:
        Markdown with the hub's header.
    """
    said: Mapping[str, Any] = circuit.provenance
    model = str(said.get("model_id") or said.get("model") or "")
    layers = ", ".join(
        f"{layer} ({count})" for layer, count in enumerate(circuit.layer_counts) if count
    )
    head = ["---", "library_name: cna", "tags:", "- interpretability", "- neurons", "- steering"]
    if "/" in model:
        head.append(f"base_model: {model}")
    found = "\n".join(
        f"- {name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in sorted(said.items())
        if name != "fingerprint"
    )
    table = _effects(result)
    parts = [
        "\n".join([*head, "---"]),
        f"# {title or f'A circuit of {len(circuit)} neurons'}",
        text,
        f"{len(circuit)} of {sum(circuit.widths)} MLP neurons of {model or 'a model'}, in layers "
        f"{layers}. Found by contrastive neuron attribution (arXiv 2605.12290): the neurons that "
        "differ most between two sets of prompts.",
        f"## How it was found\n\n{found or 'Not said.'}",
        f"## What steering does\n\n{table or 'Not measured: pass the result of a sweep.'}",
        "## Limits\n\nA lower rate is not a changed capability, and an ablated circuit is not an "
        "explanation. Numbers hold for this model, these prompts and this judge. Look at broken text, "
        "random controls and the answers themselves.",
        _serving(model),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _effects(result: Any) -> str:
    if result is None:
        return ""
    if isinstance(result, (str, os.PathLike)):
        file = Path(result) / "table.csv"
        if not file.exists():
            raise FileNotFoundError(
                f"card: expected a sweep's folder with a table.csv, found none at '{result}'; check the "
                "path"
            )
        table = pd.read_csv(file)
    else:
        table = result.table
    rows = table[table["kind"] != "random"] if "kind" in table else table
    names = [name for name in _EFFECTS if name in rows]
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for row in rows[names].to_dict("records"):
        cells = [f"{v:.3g}" if isinstance(v, float) and v == v else "" if v != v else str(v)
                 for v in row.values()]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _serving(model: str) -> str:
    return (
        "## How to use it\n\n```python\nimport cna\n\n"
        f'model = cna.load("{model or "the model"}")\n'
        'circuit = cna.Circuit.from_hub("this repository")\n'
        "with model.steer(circuit, 0.0):  # 0 ablates, 1 is the model itself\n"
        '    print(model.generate(["..."])[0])\n```\n\n'
        "Other engines serve it as a checkpoint, an adapter or a GGUF file: `cna convert circuit.json "
        "--format hf`."
    )


def push_to_hub(
    circuit: Circuit,
    repo_id: str,
    *,
    result: Any = None,
    title: str = "",
    text: str = "",
    private: bool = True,
    token: str | None = None,
    endpoint: str | None = None,
    message: str = "Add a circuit",
) -> str:
    """Writes the circuit and its card to a repository of a hub, which is made where there is none.

    Args:
        result, title, text: of the card.
        private: of a repository that is made now.
        token, endpoint: as huggingface_hub takes them; its own by default.
    Returns:
        The address of the commit.
    Raises:
        RuntimeError: what the hub says.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, token=token)
    readme = card(circuit, result, title=title, text=text)
    try:
        with tempfile.TemporaryDirectory(prefix="cna-hub-") as folder:
            circuit.save(Path(folder) / FILE)
            (Path(folder) / "README.md").write_text(readme, encoding="utf-8")
            api.create_repo(repo_id, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=message,
                allow_patterns=[FILE, "*.md"],
            )
    except Exception as error:  # the hub's errors share no base class
        raise RuntimeError(
            f"push_to_hub: expected to write to '{repo_id}', got: {first_line(error)}; check the name, "
            "the token and the network"
        ) from None
    return str(getattr(done, "commit_url", "") or done)


def from_hub(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Circuit:
    """The circuit of a hub's repository; see `Circuit.push_to_hub`.

    Raises:
        RuntimeError: no such repository or file, or no way to the hub. ValueError: no circuit.
    """
    from huggingface_hub import hf_hub_download

    try:
        file = hf_hub_download(repo_id, FILE, revision=revision, token=token, endpoint=endpoint)
    except Exception as error:  # likewise
        raise RuntimeError(
            f"from_hub: expected a repository with {FILE} at '{repo_id}', got: {first_line(error)}; "
            "check the name, the token and the network"
        ) from None
    return Circuit.load(file)
