"""The shared library: what it lets the loader see."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cna
import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="ELF only")
def test_instances_of_std_templates_stay_inside_the_library() -> None:
    """LibTorch exports std::regex as its compiler had it; mixed with ours it crashes (g++ 13)."""
    library = Path(cna.__file__).parent / "lib" / "libcna_torch.so"
    shown = subprocess.run(
        ["nm", "-DC", "--defined-only", str(library)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    names = [line.split(maxsplit=2)[2] for line in shown]
    assert any(name.startswith("cna::divergence(") for name in names)
    of_std = ("std::", "typeinfo for std::", "vtable for std::", "guard variable for std::")
    assert not [name for name in names if name.startswith(of_std)]
