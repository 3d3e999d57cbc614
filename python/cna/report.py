"""One self-contained page on a run: what was found, what steering did, and what that does not show.

The page needs no network and runs no script: its style is inline, its images are data URIs.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from . import plots
from ._core import Circuit
from .display import layer_bars, number, signed

__all__ = ["write_report"]

_EXAMPLES = 8
_NUMBERS = (
    "strength rate rate_low rate_high benign_rate benign_low benign_high quality quality_low "
    "quality_high composite kl perplexity accuracy accuracy_low accuracy_high p_value layer"
).split()
_FIGURES = {  # file stem -> caption; other images keep their names as captions
    "dose_response": "Behaviour rate against strength, with 95 % Wilson intervals. Dashed: the "
    "rate on benign prompts.",
    "quality_against_effect": "Text quality against the fall of the behaviour rate. Upper right "
    "is better.",
    "matched_kl": "Effect against the distance to the unsteered model (KL), to compare methods "
    "that disturb the model equally.",
    "layer_histogram": "Neurons of the circuit per layer.",
    "neuron_strip": "Each neuron of the circuit; colour is the sign of its contrast.",
    "overlap": "Overlap of two circuits by layer.",
    "stability": "How often resampled discovery prompts choose each neuron, and the overlap of "
    "random halves.",
}
_METHODS = {
    "cna": "CNA circuit",
    "random": "Random neurons",
    "caa": "CAA",
    "caa-mlp": "CAA, MLP outputs",
    "no-filter": "CNA, no universal filter",
}


def write_report(run_folder: str | os.PathLike[str]) -> Path:
    """Writes `report.html` into a run's folder from what is there, and returns its path.

    Reads circuit.json, table.csv, answers.csv, run.json, and .png images in the folder and in
    figures/; each may be missing, not all. Without images, figures are drawn from the circuit and
    the table.
    Raises:
        ValueError: no folder, nothing of a run in it, or a part that is empty or malformed.
        RuntimeError: a file that cannot be read or written.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise ValueError(
            f"write_report: expected a run's folder, got '{folder}'; pass the folder that holds "
            "run.json"
        )
    run = _read_run(folder / "run.json")
    circuit = _read_circuit(folder / "circuit.json")
    table = _read_table(folder / "table.csv", ("method", "strength", "rate"))
    answers = _read_table(folder / "answers.csv", ("method", "strength", "prompt", "answer"))
    if run is None and circuit is None and table is None and answers is None:
        raise ValueError(
            "write_report: expected circuit.json, table.csv, answers.csv or run.json, got none in "
            f"'{folder}'; pass the folder of a run"
        )
    images = _images(folder) or _drawn(circuit, table)
    html = _page(run or {}, circuit, table, answers, images)
    path = folder / "report.html"
    _write(path, html)
    return path


# --- reading ------------------------------------------------------------------------------------


def _text(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(
            f"write_report: expected UTF-8 text, got other bytes in '{path}'; run again"
        ) from None
    except OSError as error:
        raise RuntimeError(
            f"write_report: expected to read '{path}', got: {error.strerror or error}; check it"
        ) from None
    if not text.strip():
        raise ValueError(
            f"write_report: expected content, got the empty file '{path}'; delete it or run again"
        )
    return text


def _read_run(path: Path) -> dict[str, Any] | None:
    text = _text(path)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(
            f"write_report: expected a JSON object, got something else in '{path}'; run again"
        )
    return value


def _read_circuit(path: Path) -> Circuit | None:
    text = _text(path)
    if text is None:
        return None
    try:
        return Circuit.from_json(text)
    except (ValueError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else "not a circuit"
        raise ValueError(
            f"write_report: expected a circuit in '{path}', got one that does not read ({reason}); "
            "run again"
        ) from None


def _read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame | None:
    if _text(path) is None:
        return None
    try:
        # Text stays text: an answer may read "NA".
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no table"])[-1]
        raise ValueError(
            f"write_report: expected a CSV table, got '{path}' ({reason}); run again"
        ) from None
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise ValueError(
            f"write_report: expected the columns {', '.join(columns)}, got '{path}' without "
            f"{', '.join(missing)}; run again"
        )
    if frame.empty:
        raise ValueError(
            f"write_report: expected rows, got a header alone in '{path}'; delete it or run again"
        )
    for column in frame.columns.intersection(_NUMBERS):
        cells = frame[column].where(~frame[column].isin(["", "<NA>", "nan", "NaN", "None"]))
        values = pd.to_numeric(cells, errors="coerce")
        wrong = cells.notna() & values.isna()
        if wrong.any():
            raise ValueError(
                f"write_report: expected numbers in the column {column}, got "
                f"{cells[wrong].iloc[0]!r} in '{path}'; run again"
            )
        frame[column] = values.astype("float64")
    return frame


def _images(folder: Path) -> list[tuple[str, bytes]]:
    """(caption, PNG) of the images of a run, in the order of `_FIGURES`, others last by name."""
    files = [*folder.glob("*.png"), *(folder / "figures").glob("*.png")]
    order = list(_FIGURES)

    def place(path: Path) -> tuple[int, str]:
        stem = path.stem.replace("-", "_")
        return (order.index(stem) if stem in order else len(order), path.name)

    out: dict[str, tuple[str, bytes]] = {}
    for path in sorted(files, key=place):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RuntimeError(
                f"write_report: expected to read '{path}', got: {error.strerror or error}; check it"
            ) from None
        if not data.startswith(b"\x89PNG") or len(data) < 24:
            raise ValueError(
                f"write_report: expected a PNG image, got something else in '{path}'; delete it"
            )
        stem = path.stem.replace("-", "_")
        out.setdefault(stem, (_FIGURES.get(stem, stem.replace("_", " ").capitalize()), data))
    return list(out.values())


def _drawn(circuit: Circuit | None, table: pd.DataFrame | None) -> list[tuple[str, bytes]]:
    """Figures from what is there; those that the table has no columns for are left out."""
    wanted: list[tuple[str, Callable[[], Figure]]] = []
    if table is not None:
        frame = table
        wanted += [
            ("dose_response", lambda: plots.dose_response(frame)),
            ("quality_against_effect", lambda: plots.quality_against_effect(frame)),
            ("matched_kl", lambda: plots.matched_kl(frame)),
        ]
    if circuit is not None:
        wanted.append(("neuron_strip", lambda: plots.neuron_strip(circuit)))
    out = []
    for name, draw in wanted:
        try:
            figure = draw()
        except ValueError:
            continue
        out.append((_FIGURES[name], plots.png(figure)))
    return out


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RuntimeError(
            f"write_report: expected to write '{path}', got: {error.strerror or error}; check the "
            "folder"
        ) from None


# --- the page -----------------------------------------------------------------------------------


def _page(
    run: Mapping[str, Any],
    circuit: Circuit | None,
    table: pd.DataFrame | None,
    answers: pd.DataFrame | None,
    images: Sequence[tuple[str, bytes]],
) -> str:
    provenance = circuit.provenance if circuit is not None else {}
    task = _first(run, ("task", "task_name"))
    task_name = str(task.get("name", "")) if isinstance(task, Mapping) else str(task or "")
    about = task.get("description", "") if isinstance(task, Mapping) else run.get("description", "")
    model = str(_first(run, ("model_id", "model")) or provenance.get("model_id", ""))
    title = f"Steering: {task_name}" if task_name else "Steering run"
    chosen = _chosen(table)
    sections = [
        _lead(table, chosen),
        _section("The circuit", _circuit(circuit)),
        _section("Methods and strengths", _methods(table)),
        _section("Figures", _figures(images)),
        _section("Answers before and after", _answers(answers, chosen)),
        _section("What this does not show", _limits(table, circuit, answers)),
        _section("Settings and provenance", _settings(run, circuit)),
    ]
    facts = [f"Model <code>{escape(model)}</code>" if model else ""]
    facts.append(f"Task <code>{escape(task_name)}</code>" if task_name else "")
    facts.append(escape(str(run.get("date", run.get("created", "")))))
    line = " · ".join(f for f in facts if f)
    description = f"<p>{escape(str(about))}</p>" if about else ""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta name='color-scheme' content='light dark'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<header><h1>{escape(title)}</h1><p class='facts'>{line}</p>{description}</header>"
        + "".join(sections)
        + "</main></body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _first(values: Mapping[str, Any], names: Iterable[str]) -> Any:
    settings = values.get("settings")
    for name in names:
        if values.get(name):
            return values[name]
        if isinstance(settings, Mapping) and settings.get(name):
            return settings[name]
    return None


Setting = tuple[str, "float | None", float]  # method, layer or None, strength


def _chosen(table: pd.DataFrame | None) -> dict[str, Setting]:
    """Settings to show in words: CNA ablated, and the best CAA that keeps its text."""
    if table is None:
        return {}
    out: dict[str, Setting] = {}
    cna = table[table["method"] == "cna"].dropna(subset=["strength", "rate"])
    if len(cna):
        zero = cna[cna["strength"] == 0]
        row = (zero if len(zero) else cna.sort_values("strength")).iloc[0]
        out["cna"] = _setting(row)
    caa = table[table["method"].str.startswith("caa")].dropna(subset=["strength", "rate"])
    caa = caa[caa["strength"] != 0]
    if len(caa):
        whole = caa
        base = _unsteered(table)
        if "quality" in caa and base is not None:
            floor = 0.95 * float(base.get("quality", 0.0))
            whole = caa[caa["quality"] >= floor]
        if len(whole):
            out["caa"] = _setting(whole.sort_values("rate", kind="stable").iloc[0])
    return out


def _setting(row: pd.Series) -> Setting:
    layer = row.get("layer")
    return (
        str(row["method"]),
        None if layer is None or pd.isna(layer) else float(layer),
        float(row["strength"]),
    )


def _added(method: str) -> bool:
    return method.startswith("caa")


def _is_unsteered(frame: pd.DataFrame) -> pd.Series:
    added = frame["method"].str.startswith("caa")
    neutral = added.map({True: 0.0, False: 1.0})
    return (frame["strength"] == neutral) | (frame["method"] == "unsteered")


def _unsteered(table: pd.DataFrame) -> pd.Series | None:
    rows = table[_is_unsteered(table)].dropna(subset=["rate"])
    return rows.iloc[0] if len(rows) else None


def _row_of(table: pd.DataFrame, setting: Setting) -> pd.Series | None:
    rows = table[_matches(table, setting)]
    return rows.iloc[0] if len(rows) else None


def _matches(frame: pd.DataFrame, setting: Setting) -> pd.Series:
    method, layer, strength = setting
    same = (frame["method"] == method) & (frame["strength"] == strength)
    if "layer" in frame:
        same &= frame["layer"].isna() if layer is None else frame["layer"] == layer
    return same


def _named(setting: Setting) -> str:
    method, layer, strength = setting
    if method == "unsteered":
        return "unsteered"
    place = "" if layer is None else f", layer {layer:.0f}"
    unit = "coefficient" if _added(method) else "multiplier"
    return f"{_METHODS.get(method, method)}{place}, {unit} {number(strength)}"


def _lead(table: pd.DataFrame | None, chosen: Mapping[str, Setting]) -> str:
    if table is None or not chosen:
        return ""
    base = _unsteered(table)
    items = []
    if base is not None:
        items.append(_tile("Unsteered", base))
    for setting in chosen.values():
        row = _row_of(table, setting)
        if row is not None:
            items.append(_tile(_named(setting), row))
    note = ""
    if "caa" in chosen:
        note = (
            "<p class='note'>The CAA setting shown is the one with the lowest rate among those "
            "that keep 95 % of the unsteered quality; it was picked on these very prompts.</p>"
        )
    return f"<div class='tiles'>{''.join(items)}</div>{note}"


def _tile(name: str, row: pd.Series) -> str:
    low, high = row.get("rate_low"), row.get("rate_high")
    interval = ""
    if low is not None and high is not None and not (pd.isna(low) or pd.isna(high)):
        interval = f"95 %: {100 * low:.0f} to {100 * high:.0f} %"
    quality = row.get("quality")
    text = "" if quality is None or pd.isna(quality) else f"quality {quality:.2f}"
    small = " · ".join(x for x in (interval, text) if x)
    return (
        f"<div class='tile'><div class='name'>{escape(name)}</div>"
        f"<div class='big'>{100 * row['rate']:.0f} %</div><div class='small'>{small}</div></div>"
    )


def _circuit(circuit: Circuit | None) -> str:
    if circuit is None:
        return ""
    layers, width = circuit.shape
    n, late = len(circuit), 100 * circuit.share_in_last_layers(3)
    quarter = max(1, layers // 4)
    words = (
        f"<p>{n:,} of {layers * width:,} MLP neurons ({100 * n / (layers * width):.2g} %) in "
        f"{layers} layers of {width:,}; {late:.0f} % of them in the last three layers, "
        f"{100 * circuit.share_in_last_layers(quarter):.0f} % in the last quarter. "
        f"{len(circuit.universal_removed):,} universal neurons, which fire hard for almost every "
        "prompt, were kept out.</p>"
    )
    rows = [[str(x.layer), str(x.index), signed(x.delta)] for x in circuit.neurons[:10]]
    strongest = _table(["layer", "neuron", "delta"], rows, raw=True)
    return (
        f"{words}<div class='bars'>{layer_bars(list(circuit.layer_counts))}</div>"
        f"<details><summary>The {len(rows)} strongest neurons</summary>{strongest}</details>"
    )


def _interval(row: pd.Series, name: str, low: str, high: str, scale: float) -> str:
    value = row.get(name)
    if value is None or pd.isna(value):
        return "–"
    shape = "{:.0f}" if scale == 100 else "{:.2f}"
    text = shape.format(scale * value)
    ends = row.get(low), row.get(high)
    if any(e is None or pd.isna(e) for e in ends):
        return text
    range_ = "–".join(shape.format(scale * float(e)) for e in ends)  # type: ignore[arg-type]
    return f"{text} <span class='range'>{range_}</span>"


_COLUMNS = {  # name -> (heading, columns of its interval, scale), or (heading,)
    "rate": ("behaviour %", "rate_low", "rate_high", 100),
    "benign_rate": ("benign %", "benign_low", "benign_high", 100),
    "quality": ("quality", "quality_low", "quality_high", 1),
    "kl": ("KL, nats per token",),
    "perplexity": ("perplexity",),
    "accuracy": ("accuracy %", "accuracy_low", "accuracy_high", 100),
    "p_value": ("p",),
}


def _cell(row: pd.Series, name: str) -> str:
    rest = _COLUMNS[name][1:]
    return _interval(row, name, *rest) if rest else number(row.get(name), 2)  # type: ignore[arg-type]


def _methods(table: pd.DataFrame | None) -> str:
    if table is None:
        return ""
    columns = [c for c in _COLUMNS if c in table and table[c].notna().any()]
    layers = "layer" in table and table["layer"].notna().any()
    header = ["method", *(["layer"] if layers else []), "strength"]
    header += [str(_COLUMNS[c][0]) for c in columns]
    rows: list[list[str]] = []
    marks: list[str] = []
    plain = _is_unsteered(table)
    for at, row in table.iterrows():
        method = str(row["method"])
        sign = "" if method == "unsteered" else "c = " if _added(method) else "m = "
        cells = [escape(_METHODS.get(method, method))]
        cells += [number(row["layer"])] if layers else []
        cells.append(f"{sign}{number(row['strength'])}")
        cells += [_cell(row, c) for c in columns]
        rows.append(cells)
        marks.append("plain" if plain.loc[at] else "")
    note = (
        "<p class='note'>m multiplies the neurons (1 is the model itself, 0 ablates them); c is "
        "the coefficient of an added vector (0 is the model itself). Small figures are 95 % "
        "intervals. p: exact McNemar test against the unsteered answers, not corrected for the "
        "number of rows. Unsteered rows are shaded.</p>"
    )
    return _table(header, rows, raw=True, marks=marks) + note


def _figures(images: Sequence[tuple[str, bytes]]) -> str:
    out = []
    for caption, data in images:
        uri = base64.b64encode(data).decode("ascii")
        text = escape(caption)
        across, down = struct.unpack(">II", data[16:24])
        wide = " class='wide'" if across > 2 * down else ""
        image = f"<img alt='{text}' src='data:image/png;base64,{uri}'>"
        out.append(
            f"<figure{wide}><div class='frame'>{image}</div>"
            f"<figcaption>{text}</figcaption></figure>"
        )
    return "".join(out)


def _answers(answers: pd.DataFrame | None, chosen: Mapping[str, Setting]) -> str:
    if answers is None:
        return ""
    answers = answers.dropna(subset=["strength"])
    columns: list[tuple[str, pd.DataFrame]] = []
    plain = answers[_is_unsteered(answers)]
    if len(plain):
        columns.append(("Unsteered", plain))
    wanted = list(chosen.values()) or _settings_of(answers)
    for setting in wanted:
        rows = answers[_matches(answers, setting)]
        if len(rows):
            columns.append((_named(setting), rows))
    if not columns:
        return ""
    out = []
    sets = list(dict.fromkeys(answers["set"])) if "set" in answers else [""]
    for name in sets:
        cards = _cards(columns, name)
        if not cards:
            continue
        heading = {
            "evaluation": "Prompts on which the behaviour is expected",
            "benign": "Benign prompts",
        }.get(name, name)
        out.append((f"<h3>{escape(heading)}</h3>" if heading else "") + cards)
    note = f"<p class='note'>The first {_EXAMPLES} prompts of each set, in order, not picked.</p>"
    return note + "".join(out)


def _settings_of(answers: pd.DataFrame) -> list[Setting]:
    steered = answers[~_is_unsteered(answers)]
    cna = steered[steered["method"] == "cna"]
    rows = cna if len(cna) else steered
    rows = rows.assign(_zero=(rows["strength"] != 0)).sort_values("_zero", kind="stable")
    return [_setting(rows.iloc[0])] if len(rows) else []


_BADGES = {
    True: "<span class='badge yes'>behaviour</span>",
    False: "<span class='badge no'>no behaviour</span>",
}


def _cards(columns: Sequence[tuple[str, pd.DataFrame]], name: str) -> str:
    found: list[tuple[str, dict[str, tuple[str, str]]]] = []
    for title, rows in columns:
        part = rows[rows["set"] == name] if "set" in rows else rows
        hits = part["hit"] if "hit" in part else [""] * len(part)
        by_prompt: dict[str, tuple[str, str]] = {}
        for prompt, answer, hit in zip(part["prompt"], part["answer"], hits, strict=True):
            by_prompt.setdefault(prompt, (answer, hit))
        found.append((title, by_prompt))
    prompts = list(dict.fromkeys(p for _, answers in found for p in answers))[:_EXAMPLES]
    cards = []
    for prompt in prompts:
        cells = []
        for title, answers in found:
            if prompt not in answers:
                continue
            answer, hit = answers[prompt]
            shows = {"true": True, "1": True, "1.0": True, "false": False, "0": False}.get(
                str(hit).strip().lower()
            )
            badge = "" if shows is None else _BADGES[shows]
            text = escape(answer) if answer.strip() else "<i>(empty answer)</i>"
            cells.append(
                f"<div class='answer'><div class='who'>{escape(title)} {badge}</div>"
                f"<div class='text'>{text}</div></div>"
            )
        cards.append(
            f"<article><div class='prompt'>{escape(prompt)}</div>"
            f"<div class='answers'>{''.join(cells)}</div></article>"
        )
    return "".join(cards)


def _limits(
    table: pd.DataFrame | None, circuit: Circuit | None, answers: pd.DataFrame | None
) -> str:
    if table is None and circuit is None and answers is None:
        return ""
    lines = [
        "One model, one set of prompts and one way of decoding: other models, wordings or sampling "
        "may behave otherwise.",
        "The rate comes from an automatic judge, not from people: it can miss the behaviour in "
        "unusual words and see it where it is not. An answer without the behaviour need not be "
        "right.",
        "Quality counts repeated word 4-grams only. A fluent but wrong or off-topic answer scores "
        "high.",
        "The intervals are for each row by itself and cover the choice of evaluation prompts, not "
        "the choice of discovery prompts or of strength.",
        "That scaling these neurons changes the behaviour does not make them its only or its whole "
        "mechanism; other neurons may carry it as well.",
    ]
    if table is not None:
        methods = set(table["method"])
        if "random" not in methods:
            lines.append(
                "There is no random-neuron control here, so part of any effect may come from "
                "disturbing this many neurons at all."
            )
        if not any(_added(m) for m in methods):
            lines.append("There is no CAA baseline here, so this says nothing on which is better.")
        if "kl" not in table or not table["kl"].notna().any():
            lines.append("KL was not measured, so methods are not compared at equal disturbance.")
        if "n" in table:
            n = pd.to_numeric(table["n"], errors="coerce").max()
            if n == n and n < 100:
                lines.append(
                    f"Each rate rests on {n:.0f} answers; small differences are within the noise."
                )
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _settings(run: Mapping[str, Any], circuit: Circuit | None) -> str:
    out = []
    for title, values in (
        ("Run", _flat(run)),
        ("Circuit", _flat(circuit.provenance if circuit is not None else {})),
    ):
        if values:
            rows = [[f"<code>{escape(k)}</code>", escape(v)] for k, v in values]
            body = _table(["name", "value"], rows, raw=True, kind="names")
            out.append(f"<details open><summary>{title}</summary>{body}</details>")
    return "".join(out)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            out += _flat(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            out.append((name, text if len(text) <= 400 else text[:397] + "…"))
    return out


def _table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    raw: bool = False,
    marks: Sequence[str] = (),
    kind: str = "numbers",
) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in header)
    body = []
    for i, row in enumerate(rows):
        mark = f" class='{marks[i]}'" if marks and marks[i] else ""
        body.append(
            f"<tr{mark}>" + "".join(f"<td>{c if raw else escape(c)}</td>" for c in row) + "</tr>"
        )
    return (
        f"<div class='scroll'><table class='{kind}'><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


_STYLE = """
:root{--bg:#fff;--ink:#1d1f21;--soft:#5b6166;--line:#d9dcdf;--card:#f6f7f8;--accent:#0072b2;
--yes:#a84300;--no:#00664a}
@media (prefers-color-scheme:dark){:root{--bg:#16181a;--ink:#e6e7e8;--soft:#a6acb2;--line:#3a3f44;
--card:#1f2225;--accent:#6db8e8;--yes:#f0a36b;--no:#63cfa8}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);line-height:1.5;
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
-webkit-text-size-adjust:100%}
main{max-width:62rem;margin:0 auto;padding:1.5rem 1.1rem 4rem}
h1{font-size:1.75rem;line-height:1.2;margin:.4rem 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.4rem 0 .7rem;padding-bottom:.25rem;
border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.4rem 0 .5rem}
.facts,.note,.small,figcaption{color:var(--soft)}.note,figcaption{font-size:.875rem}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(14rem,1fr));gap:.8rem;
margin:1.3rem 0 .5rem}
.tile{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.8rem 1rem}
.name{font-size:.9rem}.big{font-size:1.9rem;font-weight:650;line-height:1.25}
.small{font-size:.85rem}
.bars{max-width:36rem}
.scroll{overflow-x:auto;margin:.6rem 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.32rem .75rem .32rem 0;border-bottom:1px solid var(--line);text-align:right;
vertical-align:top;white-space:nowrap}
th{font-weight:600;color:var(--soft);vertical-align:bottom;white-space:normal}
td:last-child,th:last-child{padding-right:.3rem}
th:first-child,td:first-child{text-align:left;padding-left:.4rem}
tr.plain td{background:var(--card)}
.names th,.names td{text-align:left;white-space:normal;overflow-wrap:anywhere}
.names td:first-child{min-width:8rem}.names code{overflow-wrap:normal}
.range{color:var(--soft);font-size:.85em}
figure{margin:1.2rem 0 1.8rem}
.frame{background:#fff;border:1px solid var(--line);border-radius:.4rem;padding:.4rem;
overflow-x:auto;max-width:46rem}
.wide .frame{max-width:none}
figure img{display:block;width:100%;height:auto}
figcaption{margin-top:.4rem}
article{border:1px solid var(--line);border-radius:.5rem;margin:.8rem 0;overflow:hidden}
.prompt{background:var(--card);padding:.55rem .9rem;font-weight:600;overflow-wrap:anywhere;
border-bottom:1px solid var(--line);white-space:pre-wrap}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr))}
.answer{padding:.6rem .9rem}
.who{font-size:.82rem;color:var(--soft);margin-bottom:.25rem}
.text{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.94rem;max-height:22rem;overflow-y:auto}
.badge{display:table;margin-top:.15rem;border:1px solid currentColor;border-radius:1em;
padding:0 .55em;font-size:.9em;white-space:nowrap}
.badge.yes{color:var(--yes)}.badge.no{color:var(--no)}
summary{cursor:pointer;padding:.25rem 0;font-weight:600}
@media screen and (max-width:40rem){.wide img{width:44rem}
main{padding:1rem .8rem 3rem}h1{font-size:1.45rem}
.answers{grid-template-columns:1fr}.answer+.answer{border-top:1px solid var(--line)}}
@media print{:root{--bg:#fff;--ink:#000;--soft:#444;--line:#bbb;--card:#f3f3f3;--yes:#833400;
--no:#00513b}
body{font-size:10.5pt}main{max-width:none;padding:0}.scroll{overflow:visible}table{font-size:8pt}
th,td{padding-right:.5rem}.text{max-height:none;overflow:visible}
figure,article,.tile,tr{break-inside:avoid}h2,h3{break-after:avoid}}
""".replace("\n", "")
