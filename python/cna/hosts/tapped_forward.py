"""A module's forward that the hosts over it run in their own way while a pass of theirs is under way."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from torch import nn


class TappedForward:
    """Stands where the module's own forward was; any number of hosts join and leave it.

    Copies of the module, and pickles, get their class's forward: no host looks at them.
    """

    def __init__(self, module: nn.Module, attribute: str) -> None:
        self.module, self.attribute = module, attribute
        self.own = getattr(module, attribute)
        self.hosts: list[tuple[Any, Callable[..., Any]]] = []

    @staticmethod
    def on(module: nn.Module) -> TappedForward:
        """The module's; accelerate's hooks keep what they call in `_old_forward`."""
        attribute = "_old_forward" if hasattr(module, "_old_forward") else "forward"
        found = module.__dict__.get(attribute)
        if isinstance(found, TappedForward):
            return found
        tapped = TappedForward(module, attribute)
        setattr(module, attribute, tapped)
        return tapped

    def join(self, host: Any, forward: Callable[..., Any]) -> TappedForward:
        """From now on `forward` runs in passes of `host`, see its `under_way.taps`. Returns itself."""
        self.hosts.append((host, forward))
        return self

    def leave(self, host: Any) -> None:
        """Takes a host's away; with the last one, the module's own forward stands there again."""
        self.hosts = [(h, f) for h, f in self.hosts if h is not host]
        if self.hosts or self.module.__dict__.get(self.attribute) is not self:
            return
        if self.attribute == "forward" and _is_the_class_own(self.own, self.module):
            del self.module.__dict__["forward"]
        else:
            setattr(self.module, self.attribute, self.own)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for host, forward in self.hosts:
            if host.under_way.taps is not None:
                return forward(*args, **kwargs)
        return self.own(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return class_forward(memo.get(id(self.module), self.module))

    def __reduce__(self) -> Any:
        return class_forward, (self.module,)


def class_forward(module: nn.Module) -> Any:
    """The forward that the module's class gives it."""
    return types.MethodType(type(module).forward, module)


def _is_the_class_own(forward: Any, module: nn.Module) -> bool:
    return getattr(forward, "__func__", None) is type(module).forward
