"""A slider in a notebook: the unsteered answer beside the one at the strength that is chosen."""

from __future__ import annotations

from typing import Any

from markupsafe import escape

from .._core import Circuit
from ..hosts.model import Model

_BOX = "white-space:pre-wrap;border:1px solid #8886;border-radius:6px;padding:.6em;min-height:4em"


def widget(
    self: Circuit,
    model: Model,
    prompt: str = "",
    *,
    low: float = -1.0,
    high: float = 2.0,
    max_new_tokens: int = 40,
) -> Any:
    """An ipywidgets box: a prompt, a slider for the multiplier m, and two answers side by side.

    An answer is written when the button is pressed, or the slider let go; greedy.

    Args:
        model: that the circuit belongs to.
        prompt: that the box begins with.
        low, high: ends of the slider, without unit; 0 ablates, 1 is the model itself.
        max_new_tokens: of each answer.
    Raises:
        ValueError: ends that are not in order.
        ImportError: ipywidgets is not installed.
    """
    if not low < high:
        raise ValueError(f"widget: expected low below high, got {low} and {high}; swap them")
    try:
        import ipywidgets
    except ImportError:
        raise ImportError(
            "widget: expected ipywidgets, found none; pip install ipywidgets, or use cna chat"
        ) from None
    wide = ipywidgets.Layout(width="100%")
    text = ipywidgets.Textarea(value=prompt, placeholder="a prompt", layout=wide)
    slider = ipywidgets.FloatSlider(
        value=min(max(0.0, low), high),
        min=low,
        max=high,
        step=0.25,
        description="m",
        continuous_update=False,
    )
    button = ipywidgets.Button(description="answer", tooltip="write both answers")
    plain, steered = ipywidgets.HTML(layout=wide), ipywidgets.HTML(layout=wide)
    known: dict[str, str] = {}  # unsteered answers by prompt

    def show(_: Any = None) -> None:
        asked = text.value.strip()
        if not asked:
            return
        if asked not in known:
            (known[asked],) = model.generate([asked], max_new_tokens, progress=False)
        with model.steer(self, slider.value):
            (answer,) = model.generate([asked], max_new_tokens, progress=False)
        plain.value = _panel("m = 1, the model itself", known[asked])
        steered.value = _panel(f"m = {slider.value:g}", answer)

    button.on_click(show)
    slider.observe(show, names="value")
    answers = ipywidgets.HBox([plain, steered], layout=wide)
    return ipywidgets.VBox([text, ipywidgets.HBox([slider, button]), answers])


def _panel(title: str, answer: str) -> str:
    return f"<b>{escape(title)}</b><div style='{_BOX}'>{escape(answer)}</div>"
