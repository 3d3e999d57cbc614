"""Every code block of the README and of docs/ runs; other projects' command lines are parsed.

The C++ blocks run in test_cpp_use.py.
"""

from __future__ import annotations

import copy
import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import cna
import cna.cli
import matplotlib
import pytest
import torch
import transformers
from cna import loading
from cna.cli import build_parser
from cna.convert import write_authors_json
from cna.hosts import aoti, hugging_face
from conftest import make_hf, make_tokenizer, needs_recent
from mixtures import mixture
from pages import PAGES, ROOT, blocks, fences, with_blocks
from processes import torchrun

# Run by two processes, apart: the first words of a block.
OF_TWO_PROCESSES = "from transformers import AutoModelForCausalLM\nfrom transformers.distributed"


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with room for long prompts, as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("docs") / "my-model"
    hf_model = copy.deepcopy(make_hf("llama"))
    hf_model.config.max_position_embeddings = 4096
    hf_model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def stand_in(hf_folder: Path) -> cna.Model:
    """The same, exported and open."""
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(hf_folder).eval()
    return cna.load(cna.export(hf_model, make_tokenizer(), hf_folder.parent / "exported"))


@pytest.mark.parametrize("page", with_blocks("python", "bash"), ids=lambda p: p.name)
def test_blocks_run(
    page: Path,
    stand_in: cna.Model,
    hf_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exports: Any,
) -> None:
    """Python and cna's own command lines, in their order, with a tiny model for the default one."""

    # Before the compiler is replaced: the fixture may have to compile it.
    compiled = exports("llama", format="aoti") if "aoti" in page.read_text() else None

    def compiled_before(hf_model: Any, masks: Any, downs: Any, example: Any, path: Path) -> Any:
        """The weights are those of the tiny Llama; the export compares the numbers itself."""
        shutil.copyfile(compiled / aoti.ARCHIVE, path)
        return torch._inductor.aoti_load_package(str(path))

    monkeypatch.setattr(aoti, "compile_package", compiled_before)
    model = stand_in
    load, load_hf = cna.load, loading.load_hf
    monkeypatch.setattr(
        cna, "load", lambda name, **options: model if name == "smollm2" else load(name, **options)
    )
    for module in (loading, hugging_face):
        monkeypatch.setattr(
            module,
            "load_hf",
            lambda name, *more: load_hf(hf_folder if name == "smollm2" else name, *more),
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CNA_CACHE", str(tmp_path / "cache"))
    matplotlib.use("Agg")
    shutil.copytree(hf_folder, tmp_path / "my-model")
    if "my-mixture" in page.read_text():
        mixture("qwen3_moe", max_position_embeddings=4096).save_pretrained("my-mixture")
        make_tokenizer().save_pretrained("my-mixture")
    for name in ("circuit.json", "other.json"):
        cna.discover(model, ["Hi"], ["Ho"], progress=False).save(name)
    namespace: dict[str, Any] = {}
    if page.name == "serving.md":
        circuit = prepare_serving(model)
        namespace = {"model": model, "vector": torch.ones(model.hidden_size), "circuit": circuit}
    for number, (language, body) in enumerate(fences(page)):
        if language == "bash":
            for words in map(without_torchrun, command_lines([body])):
                if words[0] == "cna" and words[1] != "demo":  # which .ci/run runs itself
                    assert cna.cli.main([*words[1:], *quick(words[1])]) == 0, words
        elif language == "python" and not body.startswith(OF_TWO_PROCESSES):
            exec(compile(body, f"{page.name}, block {number + 1}", "exec"), namespace)


def without_torchrun(words: list[str]) -> list[str]:
    """The command alone, on the CPU; test_distributed.py has the processes."""
    if words[0] != "torchrun":
        return words
    return ["cna", *words[words.index("cna") + 1 :], "--device", "cpu"]


def quick(command: str) -> list[str]:
    """Options that make a command short."""
    return {
        "sweep": ["--max-prompts", "2", "--max-new-tokens", "4"],
        "generate": ["--max-new-tokens", "4"],
        "tune": ["--max-new-tokens", "4"],
        "convert": ["--source", "my-model"],
    }.get(command, [])


def prepare_serving(model: cna.Model) -> cna.Circuit:
    """The files that the page takes for granted: a GGUF model and a circuit of the authors' tool."""
    sys.path.insert(0, str(ROOT / "fuzz"))
    from gguf_cases import write

    width, hidden = model.width, model.hidden_size
    shapes = {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}
    tensors = [
        (f"blk.{i}.ffn_{name}.weight", shape, "Q4_0")
        for i in range(model.n_layers)
        for name, shape in shapes.items()
    ]
    Path("model-Q4_K_M.gguf").write_bytes(write(tensors))
    circuit = cna.Circuit.load("circuit.json")
    write_authors_json(circuit, "authors.json")
    return circuit


@needs_recent  # its own way to share a model
def test_blocks_of_two_processes_run(hf_folder: Path, tmp_path: Path) -> None:
    found = [b for p in PAGES for b in blocks(p, "python") if b.startswith(OF_TWO_PROCESSES)]
    assert len(found) == 1
    before = (
        "import os, cna\nfrom transformers import AutoTokenizer\n"
        f"name = {str(hf_folder)!r}\ntokenizer = AutoTokenizer.from_pretrained(name)\n"
        "positive, negative = ['Hi', 'What?'], ['a b', 'One two']\n"
    )
    after = "if os.environ['RANK'] == '0':\n    circuit.save('circuit.json')\n"
    (tmp_path / "block.py").write_text(before + found[0] + after)
    done = torchrun(2, "block.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(cna.Circuit.load(tmp_path / "circuit.json")) >= 1


def command_lines(bodies: list[str]) -> list[list[str]]:
    text = "\n".join(bodies).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", with_blocks("bash", "sh"), ids=lambda p: p.name)
def test_shell_blocks_name_commands_that_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for words in command_lines(blocks(page, "bash", "sh")):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.M), words
        words = without_torchrun(words)
        if words[0] == "cna":
            try:
                args = build_parser().parse_args(words[1:])
            except SystemExit:
                pytest.fail(f"{page.name}: the command line does not parse: {shlex.join(words)}")
            assert args.command


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_cpp_reference_covers_every_header() -> None:
    spec = importlib.util.spec_from_file_location("cpp_reference", ROOT / "docs/cpp_reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.reference()
    for header in (ROOT / "include").rglob("*.hpp"):
        assert f"## `{header.relative_to(ROOT / 'include').as_posix()}`" in text
    assert "Array mean_difference(const Moments<Array>& positive" in text
    assert "namespace detail" not in text
    assert text.count("```") % 2 == 0


def test_python_reference_names_everything_public() -> None:
    text = (ROOT / "docs/reference/python.md").read_text("utf-8")
    listed = {name.split(".")[1] for name in re.findall(r"^::: (cna\.\S+)", text, re.M)}
    assert set(cna.__all__) - {"Conversion", "Reproduction"} <= listed


def test_nav_names_every_page() -> None:
    nav = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert f" {page.relative_to(ROOT / 'docs').as_posix()}" in nav, page


def test_the_docs_show_every_plot() -> None:
    folder = ROOT / "docs"
    page = (folder / "plots.md").read_text(encoding="utf-8")
    for name in cna.plots.__all__:
        if name not in ("png", "save"):
            assert f"`{name}(" in page and f"figures/plot-{name}.png" in page, name
    for image in re.findall(r"\]\((figures/[^)]+)\)", page):
        assert (folder / image).stat().st_size > 5000, image
