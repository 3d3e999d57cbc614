"""What a circuit, a run and a results file say of the model they came from."""

from __future__ import annotations

import json
from typing import Any

from ..base.versions import versions
from .layouts import limits
from .model import Model


def host_of(model: Model) -> str:
    """How a model runs: "live", the format of its export, or "trace" for a bare archive."""
    if model.path is None:
        return "live"
    return str(_manifest(model).get("archive_format", "trace"))


def steering_active(model: Model) -> list[str]:
    """Digests of all steering that is active now, the outermost first; see `Intervention.digest`."""
    return [block.intervention.digest for block in model._stack()]


def about_model(model: Model) -> dict[str, Any]:
    """Name, weights, dtype, host, versions, template, settings and active steering, as JSON values.

    made_with: versions of its export, None where it has none.
    """
    return {
        "model_id": model.model_id,
        "weights_hash": model.core.weights_hash,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "host": host_of(model),
        "versions": versions(),
        "made_with": _manifest(model).get("made_with"),
        "chat_template_sha256": model.chat_template_sha256(),
        "system_message": model.system,
        "template_kwargs": _as_json(model.template_kwargs),
        "layouts_left_out": limits(model.core),
        "generation_settings_left_out": _as_json(model.generation_settings_left_out),
        "steering_active": steering_active(model),
    }


def fingerprint_parts(model: Model) -> list[Any]:
    """What numbers of a model depend on beside the prompts: weights, grid, dtype, versions."""
    even = len(set(model.widths)) == 1
    shape = [model.n_layers, model.width] if even else model.widths
    dtype = str(model.dtype).removeprefix("torch.")
    made = _manifest(model).get("made_with")
    return [model.identity, shape, dtype, host_of(model), versions(), made]


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """A template may take any object: those without a form in JSON by their text."""
    return dict(json.loads(json.dumps(values, default=str)))


def _manifest(model: Model) -> dict[str, Any]:
    path = model.path
    if path is None or not path.is_dir():
        return {}
    try:
        values = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
