"""Figures: every input draws, nothing overlaps or is clipped, no global state changes."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import cna
import matplotlib
import numpy as np
import pandas as pd
import pytest
from cna import analysis, plots
from cna.plots import style
from matplotlib.figure import Figure

PNG = b"\x89PNG\r\n\x1a\n"


def circuit(seed: int = 0, k: int = 40, shape: tuple[int, int] = (30, 96)) -> cna.Circuit:
    rng = np.random.default_rng(seed)
    places = rng.choice(shape[0] * shape[1], k, replace=False)
    return cna.Circuit(
        shape, [cna.Neuron(p // shape[1], p % shape[1], d) for p, d in zip(
            places.tolist(), rng.normal(size=k).tolist(), strict=True)]
    )  # fmt: skip


def sweep() -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for method, layer, points in (
        ("cna", None, [(-1, 0.1, 0.93, 0.6), (0, 0.33, 0.97, 0.2), (1, 0.5, 0.98, 0.0)]),
        ("random", None, [(0, 0.5, 0.98, 0.02), (1, 0.5, 0.98, 0.0)]),
        ("caa", 12, [(-1, 0.02, 0.7, 1.9), (-0.5, 0.2, 0.95, 0.3), (0, 0.5, 0.98, 0.0)]),
        ("caa", 20, [(-1, 0.02, 0.72, 1.8), (-0.5, 0.04, 0.95, 0.5), (0, 0.5, 0.98, 0.0)]),
    ):
        for strength, rate, quality, kl in points:
            low, high = cna._core.wilson_interval(round(rate * 50), 50)
            rows.append(
                {"method": method, "layer": layer, "strength": strength, "rate": rate}
                | {"rate_low": low, "rate_high": high, "benign_rate": 0.05, "quality": quality}
                | {"quality_low": quality - 0.02, "quality_high": quality + 0.01, "kl": kl}
            )
    return pd.DataFrame(rows).astype({"layer": "Int64"})


@pytest.fixture(scope="module")
def stable() -> analysis.Stability:
    rng = np.random.default_rng(0)
    sets = analysis.Recordings(rng.normal(size=(8, 4, 32)), rng.normal(size=(8, 4, 32)))
    return analysis.stability(sets, k=12, n_bootstrap=20, n_halves=20)


def drawn(fig: Figure) -> np.ndarray:
    fig.canvas.draw()
    return np.asarray(fig.canvas.buffer_rgba())  # type: ignore[attr-defined]


def texts_of(fig: Figure) -> list[str]:
    return [t.get_text() for ax in fig.axes for t in (*ax.texts, ax.title, ax.xaxis.label)]


def all_figures(stable: analysis.Stability) -> dict[str, Figure]:
    a, b, table = circuit(), circuit(1), sweep()
    return {
        "layer_histogram": plots.layer_histogram(a),
        "layer_histogram of two": plots.layer_histogram({"base": a, "instruct": b}),
        "layers_by_ranking": plots.layers_by_ranking(layers()),
        "neuron_strip": plots.neuron_strip(a),
        "overlap": plots.overlap(a, b),
        "stability": plots.stability(stable),
        "dose_response": plots.dose_response(table),
        "quality_against_effect": plots.quality_against_effect(table),
        "matched_kl": plots.matched_kl(table),
    }


def test_every_figure_has_units_on_its_axes_and_clips_no_label(stable: analysis.Stability):
    for name, fig in all_figures(stable).items():
        drawn(fig)
        renderer = fig.canvas.get_renderer()  # type: ignore[attr-defined]
        width, height = fig.canvas.get_width_height()
        for ax in fig.axes:
            labels = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
            for label in (*labels, ax._left_title):  # type: ignore[attr-defined]
                if not label.get_text():
                    continue
                box = label.get_window_extent(renderer)
                assert box.x0 >= -1 and box.x1 <= width + 1, (name, label.get_text())
                assert box.y0 >= -1 and box.y1 <= height + 1, (name, label.get_text())
        assert fig.axes[0].get_xlabel() and fig.axes[0].get_ylabel(), name


def test_labels_of_points_do_not_overlap():
    for fig in (plots.quality_against_effect(sweep()), plots.matched_kl(sweep())):
        drawn(fig)
        renderer = fig.canvas.get_renderer()  # type: ignore[attr-defined]
        boxes = [t.get_window_extent(renderer) for t in fig.axes[0].texts]
        assert len(boxes) >= 2
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_figures_are_made_without_pyplot_and_leave_the_settings_alone():
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "import cna; from cna import plots\n"
        "plots.png(plots.layer_histogram(cna.Circuit((3, 4), [cna.Neuron(1, 1, 1.0)])))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert all(matplotlib.rcParams._get(k) == before._get(k) for k in before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_figure_shows_itself_and_repeats_byte_for_byte():
    one, two = (plots.neuron_strip(circuit()) for _ in range(2))
    assert plots.png(one) == plots.png(two)
    assert one._repr_png_().startswith(PNG)  # type: ignore[attr-defined]


def test_layer_histogram_draws_the_counts():
    a = circuit()
    heights = [p.get_height() for p in plots.layer_histogram(a).axes[0].patches]  # type: ignore[attr-defined]
    assert heights == list(a.layer_counts)
    shares = [p.get_height() for p in plots.layer_histogram(a, share=True).axes[0].patches]  # type: ignore[attr-defined]
    assert sum(shares) == pytest.approx(100)
    with pytest.raises(ValueError, match="at least one circuit"):
        plots.layer_histogram({})


def layers(n: int = 30, contributions: bool = True) -> pd.DataFrame:
    """A table of layers of random grids: 12 neurons each, and sums of 16."""
    rng = np.random.default_rng(n)
    table = pd.DataFrame({"layer": range(n)})
    for name in ("delta", "converted", "contribution"):
        table[f"{name}_count"] = np.bincount(rng.integers(0, n, 12), minlength=n)
        table[f"{name}_sum"] = rng.random((n, 16)).sum(1)
    if not contributions:
        table[[c for c in table if c.startswith("con")]] = np.nan
    return table


@pytest.mark.parametrize("n", [1, 2, 4, 30, 126])
def test_layers_by_ranking_draws_each_series_side_by_side(n: int):
    table = layers(n)
    fig = plots.layers_by_ranking(table)
    assert drawn(fig).std() > 0
    for ax, kind in zip(fig.axes, ("count", "sum"), strict=True):
        assert str(ax.containers[0].get_label()).startswith(("by |delta|:", "|delta|"))
        assert len(ax.containers) == len({c[0].get_facecolor() for c in ax.containers}) == 3
        for name, bars in zip(("delta", "converted", "contribution"), ax.containers, strict=True):
            values = table[f"{name}_{kind}"].to_numpy(dtype=float)
            heights = values if kind == "count" else 100 * values / values.sum()
            np.testing.assert_allclose([p.get_height() for p in bars], heights)
        edges = sorted((p.get_x(), p.get_x() + p.get_width()) for c in ax.containers for p in c)
        assert all(b[0] - a[1] > -1e-9 for a, b in itertools.pairwise(edges))  # none hides another
    late = 100 * table["contribution_count"].tail(3).sum() / 12
    label = fig.axes[0].containers[2].get_label()
    assert label == f"by contribution: 12, {late:.0f} % in the last {min(3, n)}"


def test_layers_by_ranking_draws_delta_alone_where_the_weights_are_not_known():
    fig = plots.layers_by_ranking(layers(contributions=False))
    assert [len(ax.containers) for ax in fig.axes] == [1, 1]
    assert "nan" not in str(fig.axes[0].containers[0].get_label())
    with pytest.raises(ValueError, match=r"^layers_by_ranking: .* without converted_sum"):
        plots.layers_by_ranking(layers().drop(columns=["converted_sum"]))
    with pytest.raises(ValueError, match=r"^layers_by_ranking: .* no rows"):
        plots.layers_by_ranking(layers().iloc[:0])


@pytest.mark.parametrize("shape", [(1, 4), (2, 4), (80, 64), (126, 64)])
def test_circuits_of_any_depth_and_empty_ones_draw(shape: tuple[int, int]):
    empty, one = cna.Circuit(shape, []), cna.Circuit(shape, [cna.Neuron(0, 1, 0.0)])
    for c in (empty, one):
        for fig in (plots.layer_histogram(c), plots.neuron_strip(c), plots.overlap(c, one)):
            assert drawn(fig).std() > 0
    ticks = plots.layer_histogram(one).axes[0].get_xticks()
    assert ticks[-1] == shape[0] - 1
    assert ticks[0] == 0


def test_overlap_bars_add_up_to_either_circuit():
    a, b = circuit(), circuit(1, k=30)
    heights = [p.get_height() for p in plots.overlap(a, b).axes[0].patches]  # type: ignore[attr-defined]
    assert sum(heights) == len(a | b)
    with pytest.raises(ValueError, match="one model"):
        plots.overlap(a, cna.Circuit((2, 2), []))


def test_stability_draws_with_and_without_halves(stable: analysis.Stability):
    assert len(plots.stability(stable).axes) == 2
    rng = np.random.default_rng(0)
    sets = analysis.Recordings(rng.normal(size=(4, 2, 8)), rng.normal(size=(4, 2, 8)))
    alone = analysis.stability(sets, k=1, n_bootstrap=3, n_halves=0)
    assert len(plots.stability(alone).axes) == 1


def test_dose_response_keeps_multipliers_and_coefficients_on_axes_of_their_own():
    fig = plots.dose_response(sweep())
    assert [("multiplier" in ax.get_xlabel()) for ax in fig.axes] == [True, False]
    assert "coefficient" in fig.axes[1].get_xlabel()
    only = sweep()[lambda t: t["method"] == "caa"]
    assert len(plots.dose_response(only).axes) == 1


def test_dose_response_draws_rates_and_wilson_intervals():
    table = sweep()[lambda t: t["method"] == "cna"]
    ax = plots.dose_response(table).axes[0]
    (line,) = [x for x in ax.get_lines() if x.get_label() == "CNA circuit"]
    np.testing.assert_allclose(line.get_xdata(), [-1, 0, 1])
    np.testing.assert_allclose(line.get_ydata(), [10, 33, 50])
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(100 * table["rate_low"].min())
    assert band[:, 1].max() == pytest.approx(100 * table["rate_high"].max())


def test_quality_and_kl_figures_measure_the_fall_from_the_unsteered_rate():
    ax = plots.quality_against_effect(sweep()).axes[0]
    (line,) = [x for x in ax.get_lines() if x.get_label() == "CNA circuit"]
    np.testing.assert_allclose(line.get_xdata(), [40, 17, 0], atol=1e-9)
    np.testing.assert_allclose(line.get_ydata(), [0.93, 0.97, 0.98])
    ax = plots.matched_kl(sweep()).axes[0]
    (points,) = [x for x in ax.get_lines() if x.get_label() == "CNA circuit"]
    np.testing.assert_allclose(points.get_xdata(), [0.2, 0.6])
    np.testing.assert_allclose(points.get_ydata(), [17, 40])
    steps = [x for x in ax.get_lines() if x.get_drawstyle() == "steps-post"]
    for step in steps:
        assert (np.diff(np.asarray(step.get_ydata(), dtype=float)) >= 0).all()


@pytest.mark.parametrize(
    "gone",
    [["layer"], ["rate_low", "rate_high"], ["benign_rate"], ["quality_low", "quality_high"]],
)
def test_missing_optional_columns_leave_gaps(gone: list[str]):
    table = sweep().drop(columns=gone)
    for draw in (plots.dose_response, plots.quality_against_effect, plots.matched_kl):
        assert drawn(draw(table)).std() > 0


def test_rows_with_nan_are_left_out():
    table = sweep()
    table.loc[1, ["rate", "quality"]] = np.nan
    table.loc[0, ["rate_low", "benign_rate"]] = np.nan
    table.loc[3, "kl"] = np.inf
    for draw in (plots.dose_response, plots.quality_against_effect, plots.matched_kl):
        assert drawn(draw(table)).std() > 0
    (line,) = [
        x for x in plots.dose_response(table).axes[0].get_lines() if x.get_label() == "CNA circuit"
    ]
    assert list(line.get_xdata()) == [-1, 1]


@pytest.mark.parametrize("draw", ["dose_response", "quality_against_effect", "matched_kl"])
def test_tables_with_nothing_to_draw_are_refused(draw: str):
    call = getattr(plots, draw)
    with pytest.raises(ValueError, match=f"{draw}: expected the columns"):
        call(sweep().drop(columns=["rate"]))
    empty = sweep()
    empty["rate"] = np.nan
    with pytest.raises(ValueError, match=f"{draw}: expected rows"):
        call(empty)
    with pytest.raises(ValueError, match=f"{draw}: expected rows"):
        call(sweep().iloc[:0])


def test_figures_of_effect_ask_for_an_unsteered_row():
    table = sweep()[lambda t: ~t["strength"].isin([0, 1]) | (t["method"] == "x")]
    with pytest.raises(ValueError, match="matched_kl: expected an unsteered row"):
        plots.matched_kl(table)
    plain = sweep()[lambda t: t["kl"] == 0]
    with pytest.raises(ValueError, match="KL above 0"):
        plots.matched_kl(plain)


def test_unknown_methods_draw_under_their_own_name():
    table = sweep().assign(method=lambda t: t["method"].replace("random", "my-method"))
    labels = [x.get_label() for x in plots.dose_response(table).axes[0].get_lines()]
    assert "my-method" in labels


def test_colours_differ_for_every_method_also_in_grey():
    grey = [
        float(np.dot(matplotlib.colors.to_rgb(c), (0.299, 0.587, 0.114)))
        for c in (style.COLOURS["cna"], style.COLOURS["caa"], style.COLOURS["caa-mlp"])
    ]
    assert min(abs(a - b) for a, b in itertools.combinations(grey, 2)) > 0.04
    assert len(set(style.MARKERS.values())) == len(style.MARKERS)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_save_writes_the_whole_file_and_nothing_else(tmp_path: Path, suffix: str):
    path = plots.save(plots.layer_histogram(circuit()), tmp_path / f"figure.{suffix}")
    start = path.read_bytes()[:5]
    assert start in (PNG[:5], b"<?xml", b"%PDF-")
    assert [p.name for p in tmp_path.iterdir()] == [f"figure.{suffix}"]


def test_save_replaces_a_file_and_keeps_it_where_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        with pytest.raises(RuntimeError, match="No space left"):
            plots.save(plots.layer_histogram(circuit()), path)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
    plots.save(plots.layer_histogram(circuit()), path)
    assert path.read_bytes().startswith(PNG)


def test_save_refuses_other_endings_and_missing_folders(tmp_path: Path):
    fig = plots.layer_histogram(circuit())
    with pytest.raises(ValueError, match="path ending in"):
        plots.save(fig, tmp_path / "figure.txt")
    with pytest.raises(ValueError, match="make it first"):
        plots.save(fig, tmp_path / "no" / "figure.png")


# --- kinds, draws, side effect --------------------------------------------------------------------


def today() -> pd.DataFrame:
    """A table with kinds, draws and outcomes, as sweeps write it."""
    table = sweep()[lambda t: t["method"] != "random"].rename(columns={"kl": "kl_evaluation"})
    table["kind"] = table["method"].map({"cna": "circuit", "caa": "vector"})
    table["broken"] = [0.5, 0.1, 0.0, *[0.3, 0.0, 0.0] * 2]
    table["other"] = 1 - table["rate"] - table["broken"]
    table["kl_benign"] = table["kl_evaluation"] / 10
    table["draw"] = pd.array([pd.NA] * len(table), dtype="Int64")
    draws = pd.DataFrame(
        {"method": "random", "kind": "random", "strength": 0.0, "draw": range(5), "broken": 0.0}
        | {"rate": [0.4, 0.5, 0.45, 0.55, 0.6], "quality": 0.98, "kl_benign": [0.01] * 4 + [0.02]}
    )
    draws["other"] = 1 - draws["rate"]
    table.loc[(table.kind == "circuit") & (table.strength == 1), "kind"] = "model"
    out = pd.concat([table, draws], ignore_index=True)
    out["neutral"] = out["kind"].map({"vector": 0.0}).fillna(1.0)
    return out.astype({"layer": "Int64", "draw": "Int64"})


def test_random_draws_are_one_grey_band():
    ax = plots.dose_response(today()).axes[0]
    (band,) = [p for p in ax.patches if p.get_label() == "random neurons, 5 draws"]
    box = band.get_extents().transformed(ax.transData.inverted())
    assert (box.y0, box.y1) == pytest.approx((40, 60))
    assert not [x for x in ax.get_lines() if str(x.get_label()).startswith("random-")]
    ax = plots.matched_kl(today()).axes[0]
    (patch,) = ax.patches
    assert patch.get_x() == pytest.approx(0.01) and patch.get_width() == pytest.approx(0.01)  # type: ignore[attr-defined]
    assert "random neurons, 5 draws" in [x.get_label() for x in ax.get_lines()]


def test_methods_are_compared_along_the_kl_on_benign_prompts():
    ax = plots.matched_kl(today()).axes[0]
    assert "benign prompts" in ax.get_xlabel() and "other, unbroken" in ax.get_ylabel()
    (points,) = [x for x in ax.get_lines() if x.get_label() == "CNA circuit"]
    np.testing.assert_allclose(points.get_xdata(), [0.02, 0.06])
    # At m = -1 half of the answers are broken: the rate falls by 40 points, other answers by 10.
    np.testing.assert_allclose(points.get_ydata(), [7, -10], atol=1e-9)
    assert "evaluation prompts" in plots.matched_kl(sweep()).axes[0].get_xlabel()


def test_no_line_is_drawn_beyond_the_kl_that_a_method_was_measured_at():
    ax = plots.matched_kl(today()).axes[0]
    for line in ax.get_lines():
        if line.get_drawstyle() == "steps-post":
            assert len(line.get_xdata()) in (2, 4)
            assert np.max(np.asarray(line.get_xdata(), float)) in (0.06, 0.19)


def test_each_kind_of_strength_has_its_own_axes():
    table = today()
    more = pd.DataFrame(
        {"method": ["prompt", "logit-bias", "mine"], "kind": ["prompt", "logit_bias", "vector"]}
        | {"strength": [1.0, -0.5, 1.0], "rate": 0.2, "neutral": 0.0}
    )
    fig = plots.dose_response(pd.concat([table, more], ignore_index=True))
    axes = {ax._left_title.get_text(): ax for ax in fig.axes}  # type: ignore[attr-defined]
    assert list(axes) == [
        "Scaling neurons",
        "Adding a steering vector",
        "A bias on the logits",
        "An instruction",
    ]
    assert "mine" in [x.get_label() for x in axes["Adding a steering vector"].get_lines()]


def test_a_legend_below_stays_within_its_figure() -> None:
    """Long names in a narrow figure: fewer columns, none cut off at the sides."""
    for entries, length in ((12, 34), (4, 60), (2, 8)):
        figure = Figure(figsize=(7.2, 6))
        ax = figure.subplots()
        for i in range(entries):
            ax.plot([0, 1], [0, i], label=f"{i:02d} " + "CAA from the answer on " * 4)
            ax.lines[-1].set_label(str(ax.lines[-1].get_label())[:length])
        style.legend(ax, below=True)
        figure.draw_without_rendering()
        box = ax.get_legend().get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width, (entries, length)
