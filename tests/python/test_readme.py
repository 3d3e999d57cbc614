"""What the README and the docs show runs as it stands."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import cna
import pytest
import torch
from cna.cli import build_parser
from conftest import make_hf, make_tokenizer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SITE = Path(torch.__file__).parent.parent


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def test_the_readmes_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a tiny model with the default model's vocabulary of calls; the default one is the demo's."""
    folder = cna.export(make_hf("llama"), make_tokenizer(), tmp_path / "tiny")
    tiny = cna.load(folder)
    monkeypatch.setattr(cna, "load", lambda name, **_: tiny)
    monkeypatch.chdir(tmp_path)
    source = blocks(PAGES[0], "python")
    assert len(source) == 1 and len(source[0].splitlines()) <= 18
    # Its prompts are longer than 256 bytes with a byte tokenizer only if the answer is long.
    names: dict[str, Any] = {}
    exec(compile(source[0], "README.md", "exec"), names)
    assert "before:" in capsys.readouterr().out
    assert (tmp_path / "dose_response.png").stat().st_size > 1000
    assert cna.Circuit.load(tmp_path / "circuit.json") == names["circuit"]


def test_the_readmes_cpp_compiles(tmp_path: Path) -> None:
    (source,) = blocks(PAGES[0], "cpp")
    file = tmp_path / "readme.cpp"
    file.write_text(source)
    includes = ["torch/include", "torch/include/torch/csrc/api/include"]
    includes += ["cmeel.prefix/include/eigen3"]
    command = ["g++", "-std=c++20", "-fsyntax-only", "-DFMT_HEADER_ONLY=1", f"-I{ROOT / 'include'}"]
    command += [x for i in includes for x in ("-isystem", str(SITE / i))]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_cna_command_line_parses(page: Path) -> None:
    for block in blocks(page, "(?:bash|sh|console)"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["cna"]:
                build_parser().parse_args(words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
