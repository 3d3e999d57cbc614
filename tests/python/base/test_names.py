"""The public names of modules, and where imports may go."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import cna
import pytest
from cna.base.names import PLACES

PUBLIC = {
    "analysis": [
        "stability",
        "permutation_null",
        "record_sets",
        "layer_table",
        "layers_by_ranking",
        "smallest_k",
    ],
    "arms": ["Arm", "neuron_arms", "vector_arms", "size_arms", "build_arms", "BASELINES"],
    "cli": ["main", "build_parser"],
    "convert": [
        "Conversion",
        "FORMATS",
        "convert",
        "load_control_vector",
        "read_authors_json",
        "save_control_vector",
        "write_authors_json",
    ],
    "convert.gguf_lora": ["open_gguf", "write_gguf_lora"],
    "display": ["circuit_html", "frame_html", "layer_bars", "number", "panel", "rows_html"],
    "distributed": [
        "contrast_distributed",
        "discover_distributed",
        "share_circuit",
        "sweep_distributed",
        "universal_neurons_distributed",
    ],
    "doctor": ["Check", "check", "main_doctor", "relative_difference"],
    "judges": ["AnswerJudge", "CallableJudge", "Judge", "KeywordJudge", "get", "load", "names"],
    "loading": [
        "cache_folder",
        "export_cached",
        "load",
        "load_hf",
        "open_export",
        "smollm2_source",
    ],
    "neurons": ["Card", "Cards", "cards"],
    "metrics": [
        "choose",
        "compare",
        "controls",
        "fixed_text",
        "mean_interval",
        "outcome_of",
        "quiz_accuracy",
        "rate_by_length",
        "summarise",
    ],
    "plots": ["dose_response", "layer_histogram", "layers_by_ranking", "matched_kl", "png", "save"],
    "prompts": ["Question", "read_prompts", "read_quiz", "universal_prompts"],
    "ranks": ["Group", "device_of_rank", "group", "is_distributed", "load_in_turn"],
    "report": ["write_report"],
    "reproduce": [
        "ALPHAS",
        "LAYER_TASKS",
        "PARTS",
        "Reproduction",
        "authors_circuit",
        "authors_layers",
        "controls_table",
        "jailbreak_task",
        "layer_distance",
        "main_reproduce",
        "paper",
        "paper_entry",
        "quality_table",
        "refusal_table",
        "reproduce",
    ],
    "steering": ["SteeringVector", "caa", "caa_mlp", "mean_difference", "random_like"],
    "sweep": ["SweepResult", "plan", "sweep"],
    "tasks": ["Task", "load", "names", "read_jailbreakbench"],
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_keeps_its_path(name: str) -> None:
    module = importlib.import_module(f"cna.{name}")
    first, dot, rest = name.partition(".")
    place = importlib.import_module(f"cna.{PLACES.get(first, first)}{dot}{rest}")
    assert module is place and module.__spec__ is not None
    assert module.__spec__.name == module.__name__ == place.__name__
    for what in PUBLIC[name]:
        assert hasattr(module, what), what


def test_every_name_has_its_place() -> None:
    assert set(PLACES) <= {*PUBLIC, "lm_eval"}
    for name in PLACES:
        assert importlib.util.find_spec(f"cna.{name}") is not None
        assert hasattr(cna, name) or name == "lm_eval"


def test_a_function_stays_one_when_its_module_is_imported() -> None:
    code = (
        "import cna\n"
        "from cna.convert import load_control_vector\n"
        "from cna.reproduce import paper\n"
        "from cna.sweep import plan\n"
        "import cna.convert.gguf_lora, cna.reproduce.tables, sys\n"
        "assert callable(cna.convert) and callable(cna.reproduce) and callable(cna.sweep)\n"
        "assert sys.modules['cna.convert.gguf_lora'] is sys.modules['cna.ship.gguf_lora']\n"
        "assert 'matplotlib' not in sys.modules and 'cna.cli' not in sys.modules\n"
        "from cna import *\n"
        "assert doctor.check and not hasattr(cna, 'no_such_name')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_module_is_not_found() -> None:
    for name in ("cna.none", "cna.convert.none", "cna.sweep.none"):
        with pytest.raises(ModuleNotFoundError, match="none"):
            importlib.import_module(name)


def test_only_the_shell_imports_from_the_package_itself() -> None:
    """import-linter does not follow `cna/__init__.py`, so nothing below may take a way through it."""
    root = Path(cna.__file__).parent
    for path in root.rglob("*.py"):
        folders = path.relative_to(root).parts[:-1]
        if not folders or folders[0] == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                through = node.module == "cna" or (
                    not node.module and node.level == len(folders) + 1
                )
                names = {alias.name for alias in node.names} if through else set()
            elif isinstance(node, ast.Import):
                names = {
                    alias.name for alias in node.names if alias.name.partition(".")[0] == "cna"
                }
            else:
                continue
            packages = {p.name for p in root.iterdir() if p.is_dir()}
            assert names <= {"_core", *packages}, (path.name, names)
