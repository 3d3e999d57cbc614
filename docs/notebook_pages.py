"""MkDocs hook: the notebooks of examples/, with their outputs, as pages of the site.

Needs nothing but the files. HTML outputs stand as they are, pictures inside the page, text in a block.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
FOLDER = "notebooks"


def title_of(notebook: dict[str, Any]) -> str:
    """Its first heading."""
    return _text(notebook["cells"][0]["source"]).splitlines()[0].removeprefix("# ").strip()


def _text(parts: str | list[str]) -> str:
    return parts if isinstance(parts, str) else "".join(parts)


def _block(text: str, language: str = "text") -> list[str]:
    return ["", f"```{language}", *text.rstrip("\n").splitlines(), "```", ""]


def _output(output: dict[str, Any]) -> list[str]:
    """What a cell showed, the richest form of it."""
    if output["output_type"] == "stream":
        return _block(_text(output["text"])) if output["name"] == "stdout" else []
    data = output.get("data", {})
    if "text/html" in data:
        # In one line: a blank line would end Markdown's block of HTML.
        html = re.sub(r"\s*\n\s*", " ", _text(data["text/html"]))
        return ["", f'<div class="nb-output">{html}</div>', ""]
    if "image/png" in data:
        image = _text(data["image/png"]).replace("\n", "")
        return ["", f"![figure](data:image/png;base64,{image})", ""]
    return _block(_text(data["text/plain"])) if "text/plain" in data else []


def page_of(notebook: dict[str, Any], name: str) -> str:
    """A notebook as Markdown."""
    lines: list[str] = []
    for cell in notebook["cells"]:
        source = _text(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += ["", source, ""]
        elif cell["cell_type"] == "code":
            lines += _block(source, "python")
            for output in cell["outputs"]:
                lines += _output(output)
    lines += ["", f"The notebook: `examples/{name}`.", ""]
    return "\n".join(lines)


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages to the site."""
    from mkdocs.structure.files import File

    for path in NOTEBOOKS:
        page = page_of(json.loads(path.read_text(encoding="utf-8")), path.name)
        files.append(File.generated(config, f"{FOLDER}/{path.stem}.md", content=page))
    return files


def on_config(config: Any) -> Any:
    """Adds them to the navigation, behind the quick starts."""
    pages = [
        {title_of(json.loads(path.read_text(encoding="utf-8"))): f"{FOLDER}/{path.stem}.md"}
        for path in NOTEBOOKS
    ]
    (start,) = [i for i, part in enumerate(config["nav"]) if "Start" in part]
    config["nav"].insert(start + 1, {"Notebooks": pages})
    return config
