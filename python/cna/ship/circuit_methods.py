"""What circuits can be asked for in Python, beside what C++ gives them: one table of methods."""

from __future__ import annotations

from .._core import Circuit
from ..analysis.cards import cards
from ..analysis.probe import probe
from ..circuits.fingerprint import verify, with_fingerprint
from ..circuits.frames import to_frame
from ..hosts.steered import to_hooks
from ..show.token_view import view
from ..show.widget import widget
from .hub import card, from_hub, push_to_hub

METHODS = {
    "card": card,
    "cards": cards,
    "from_hub": staticmethod(from_hub),
    "probe": probe,
    "push_to_hub": push_to_hub,
    "to_frame": to_frame,
    "to_hooks": to_hooks,
    "verify": verify,
    "view": view,
    "widget": widget,
    "with_fingerprint": with_fingerprint,
}


def register() -> None:
    """Makes them methods of `Circuit`; called once, when `cna` is imported."""
    for name, method in METHODS.items():
        setattr(Circuit, name, method)
