"""`cna chat`: a conversation in the terminal, steered while it goes on."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .common import drawing_options, load_model, model_options, steering_options, strength_of

TEXT = "Talk to the model, steered or not; /help lists what can be changed meanwhile."
HELP = """  /m 0.5           steer at this strength (0 ablates, 1 is the model itself)
  /off, /on        without steering, and with it again
  /side            the model itself and the steered one side by side; again: one answer
  /circuit FILE    another circuit, or the run folder of a tune
  /probe TASK      fit the circuit as a detector on a task's prompts, and show its score
  /system TEXT     a system message; begins anew
  /new             begin anew
  /quit            leave (also Ctrl-D)"""


def options(parser: argparse.ArgumentParser) -> None:
    model_options(parser)
    steering_options(parser)
    drawing_options(parser, max_new_tokens=200)


def run(args: argparse.Namespace) -> int:
    model = load_model(args)
    if not model.uses_chat(None):
        raise ValueError(
            f"chat: expected a model with a chat template, got {model.model_id!r} without one; use "
            "`cna generate --raw`"
        )
    how = {
        "max_new_tokens": args.max_new_tokens,
        "temperature": args.temperature,
        "seed": args.seed,
    }
    talk = Talk(model, _write, how)
    if args.circuit:
        talk.steer_by(args.circuit, args.multiplier)
    print(f"{model}\n{talk.state()}; /help for commands")
    for line in _lines():
        if not talk.take(line):
            break
    return 0


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _lines() -> Iterator[str]:
    """What is typed, line by line; Ctrl-C drops a line, Ctrl-D ends it."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # arrows and history
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            print()


class Talk:
    """What one line after the other changes; written to be driven by a terminal or a test."""

    def __init__(self, model: Any, write: Callable[[str], Any], how: dict[str, Any]) -> None:
        self.model, self.write, self.how = model, write, how
        self.operation: Any = None
        self.strength = 0.0
        self.on = True
        self.side = False
        self.gate: Any = None
        self.begin()

    def begin(self, system: str | None = None) -> None:
        self.plain = self.model.chat(system=system)
        self.steered = self.model.chat(system=system)

    def state(self) -> str:
        if self.operation is None:
            return "no circuit: /circuit FILE"
        where = f"{len(self.operation.circuit)} neurons, {self.operation.name} {self.strength:g}"
        return where if self.on else f"{where}, off"

    def take(self, line: str) -> bool:
        """Answers a line or does what it asks; False to leave."""
        line = line.strip()
        word, _, rest = line.partition(" ")
        if not line:
            return True
        if not line.startswith("/"):
            self._answer(line)
            return True
        if word in ("/quit", "/exit"):
            return False
        action = getattr(self, f"_do_{word[1:]}", None)
        if action is None:
            self._say(f"chat: expected one of /help's commands, got {word}")
            return True
        try:
            action(rest.strip())
        except (ValueError, IndexError, RuntimeError, OSError) as error:
            self._say(str(error).splitlines()[0])
        return True

    def steer_by(self, path: str, strength: float | None = None) -> None:
        """Takes the circuit of a file, or of a tune's folder, at its own strength or this one."""
        from ..circuits.operation import load_steering

        steering = load_steering(path)
        self.operation, self.strength = steering[0], strength_of(strength, steering)
        self.on, self.gate = True, None

    # --- commands ---------------------------------------------------------------------------

    def _do_help(self, _: str) -> None:
        self._say(HELP)

    def _do_m(self, text: str) -> None:
        try:
            strength = float(text)
        except ValueError:
            strength = math.nan
        if not math.isfinite(strength):
            raise ValueError(f"chat: expected a number behind /m, got {text!r}; such as /m 0")
        self.strength, self.on = strength, True
        self._say(self.state())

    def _do_off(self, _: str) -> None:
        self.on = False
        self._say(self.state())

    def _do_on(self, _: str) -> None:
        self.on = True
        self._say(self.state())

    def _do_side(self, _: str) -> None:
        self.side = not self.side
        self._say("side by side" if self.side else "one answer")

    def _do_circuit(self, path: str) -> None:
        self.steer_by(path)
        self._say(self.state())

    def _do_probe(self, name: str) -> None:
        from ..circuits.gate import fit_gate
        from ..prompts import tasks

        if self.operation is None:
            raise ValueError("chat: expected a circuit to probe with, got none; /circuit FILE")
        if not name:
            self.gate = None
            return self._say("no probe")
        task = tasks.load(name)
        self.gate = fit_gate(
            self.model, self.operation.circuit, task.positive, task.negative, chat=task.chat,
            progress=False,
        )  # fmt: skip
        return self._say(f"probe of {task.name}: passes above {self.gate.threshold:.2f}")

    def _do_system(self, text: str) -> None:
        self.begin(text or None)
        self._say("a new conversation")

    def _do_new(self, _: str) -> None:
        self.begin()
        self._say("a new conversation")

    # --- answers ----------------------------------------------------------------------------

    def _answer(self, text: str) -> None:
        steers = self.operation is not None and self.on
        if self.side or not steers:
            self._one(
                self.plain, text, "unsteered: " if self.side else "", contextlib.nullcontext()
            )
        if steers:
            block = self.model.steer(self.operation, self.strength)
            self._one(self.steered, text, "steered:   " if self.side else "", block)

    def _one(self, chat: Any, text: str, mark: str, block: Any) -> None:
        self.write(mark)
        asked = len(chat.tokens)
        try:
            with block:
                for piece in chat.say(text, stream=True, **self.how):
                    self.write(piece)
        except KeyboardInterrupt:
            self.write(" (stopped)")
        except ValueError as error:
            self._say(str(error).splitlines()[0])
            return
        self.write("\n")
        if self.gate is not None and len(chat.tokens) > asked:
            self._show_probe(chat.tokens)

    def _show_probe(self, tokens: list[int]) -> None:
        (scores,) = self.gate.token_scores(self.model.core, [tokens])
        most = max(range(len(scores)), key=scores.__getitem__)
        fires = "fires" if scores[most] > self.gate.threshold else "quiet"
        self._say(
            f"probe {fires}: most {scores[most]:+.2f} at {self.model.decode([tokens[most]])!r} "
            f"(threshold {self.gate.threshold:.2f})"
        )

    def _say(self, text: str) -> None:
        self.write(text + "\n")
