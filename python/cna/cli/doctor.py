"""The doctor: whether a model behaves as discovery and steering take for granted."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..base.errors import first_line
from ..hosts.model import Model
from . import doctor_checks as look
from . import doctor_prompts as prompts
from .common import opening, opening_options
from .doctor_checks import archive_hash, own_package
from .doctor_patient import Check, Patient, relative_difference

TEXT = "Check that a model behaves as cna expects."

__all__ = ["Check", "check", "main_doctor", "relative_difference"]


def check(
    model_or_name: Model | str | os.PathLike[str],
    hf_model: Any = None,
    *,
    dtype: str | None = "auto",
    device: str = "auto",
    pattern: str = "",
    system: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[Check]:
    """Looks at a model in thirteen ways, in seconds.

    Args:
        model_or_name: a `cna.Model`, or a name that `cna.load` takes.
        hf_model: the Hugging Face model to compare with; by default the one behind the name,
            where it can be loaded.
        dtype, device, pattern, system, template_kwargs: of a name, see `cna.load`.
    Returns:
        One `Check` per property; a model that cannot be opened gives the failed ones only.
    """
    why = "no Hugging Face model to compare with; pass hf_model="
    if isinstance(model_or_name, Model):
        model, path = model_or_name, model_or_name.path
        checks = [archive_hash(path)]
    else:
        path = Path(model_or_name).expanduser()
        checks = [archive_hash(path if path.is_dir() else None)]
        if not checks[0].passed:  # opening it would run it
            return checks
        try:
            chat = {"system": system, "template_kwargs": template_kwargs}
            # The hash is a check of its own.
            how = {"dtype": dtype, "device": device, "pattern": pattern, "verify": False}
            model = _open(model_or_name, **how, **chat)
        except (ValueError, RuntimeError, OSError) as error:
            reason = first_line(error)
            return [
                *checks,
                Check("model opens", False, reason, "pass another model, or export it"),
            ]
        if checks[0].skipped:
            checks = [archive_hash(model.path)]
        if hf_model is None and not (path / "manifest.json").exists() and not path.is_file():
            hf_model, why = _eager(os.fspath(model_or_name), model)
    try:
        p = Patient(model)
    except Exception as error:  # likewise
        reason = first_line(error)
        return [*checks, Check("prompts", False, reason, "mend the tokenizer's files")]
    looks: dict[str, Callable[[], Check]] = {
        "one BOS": lambda: prompts.one_bos(p),
        "prompts end with text": lambda: prompts.prompt_end(p),
        "chat template": lambda: prompts.chat_template(p),
        "padding sides": lambda: prompts.padding_sides(p),
        "EOS": lambda: prompts.end_token(p),
        "layouts that agree": lambda: look.layouts(p),
        "batch equals single": lambda: look.batch_equals_single(p),
        "shared prefix equals none": lambda: look.shared_prefix(p),
        "exported equals Hugging Face": lambda: look.equals_eager(p, hf_model, why),
        "faster form equals the graph": lambda: look.equals_graph(p),
        "no neurons change nothing": lambda: look.zero_neurons(p),
        "multiplier 1 is the model": lambda: look.multiplier_one(p),
    }
    for name, run in looks.items():
        try:
            checks.append(run())
        except Exception as error:  # a tokenizer's template can raise anything
            checks.append(Check(name, False, first_line(error), "report the architecture"))
    return checks


def _open(name: str | os.PathLike[str], **how: Any) -> Model:
    from .. import load

    return load(name, **how)


def _eager(name: str, model: Model) -> tuple[Any, str]:
    from ..hosts.hugging_face import load_hf

    try:
        return load_hf(name, model.dtype)[0], ""
    except (ValueError, RuntimeError, OSError) as error:
        return None, first_line(error)


def main_doctor(name: str, *, hf_model: Any = None, **options: Any) -> int:
    """Prints one line per check, with a fix for each that fails. Returns 0 if all hold, else 1."""
    checks = [one for one in (own_package(),) if not one.passed]
    checks += check(name, hf_model, **options)
    for one in checks:
        print(one)
    failed = sum(not c.passed for c in checks)
    print(f"{len(checks) - failed} of {len(checks)} hold" + (f", {failed} fail" if failed else ""))
    sys.stdout.flush()
    return 1 if failed else 0


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="smollm2, a Hugging Face id or folder, or an export")
    parser.add_argument("--pattern", default="", help="module path of the down projection (regex)")
    opening_options(parser)


def run(args: argparse.Namespace) -> int:
    return main_doctor(args.model, pattern=args.pattern, **opening(args))
