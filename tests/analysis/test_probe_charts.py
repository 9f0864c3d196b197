"""The charts of probes: both libraries draw what was given, and it can be read."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from matplotlib.text import Text

from optbench.analysis.charts import batch_hessian, landscape, over_training, paper, spectrum, styles, surface
from optbench.analysis.charts.paper import save
from optbench.analysis.charts.probe_files import chart_for
from optbench.analysis.charts.records import from_record, to_record

RANDOM = np.random.default_rng(0)
STEPS = np.arange(0, 20001, 500)
GRID = np.linspace(-1.5, 14, 400)
DENSITY = np.exp(-((GRID / 0.2) ** 2) / 2) + 1e-5 * np.exp(-(((GRID - 13) / 0.2) ** 2) / 2)
BATCHES = 2 ** np.arange(10)
TOP = 0.25 * (1 + 60 / BATCHES)[:, None] * (1 + 0.1 * RANDOM.standard_normal((10, 5)))
BOTTOM = -(0.05 + 0.6 / np.sqrt(BATCHES))[:, None] * (1 + 0.1 * RANDOM.standard_normal((10, 5)))
X, Y = np.linspace(-1, 1, 21), np.linspace(-1, 1, 17)
SURFACE = 0.05 + 3 * X[None] ** 2 + 8 * Y[:, None] ** 2
POSITIONS = np.linspace(-0.5, 1.5, 31)
LOSS = 0.1 + (POSITIONS * (1 - POSITIONS)) ** 2
PATH = np.stack([-np.exp(-np.arange(20) / 4), 0.3 * np.sin(np.arange(20))], axis=1)
PATH -= PATH[-1]

SPECTRUM = {
    "grid": GRID,
    "density": DENSITY,
    "density_error": 0.2 * DENSITY,
    "dimension": 1000,
    "top": 13.0,
    "bottom": -0.8,
}
BATCH_HESSIAN = {
    "batch_sizes": BATCHES,
    "top": TOP,
    "bottom": BOTTOM,
    "full_top": 0.25,
    "full_bottom": -0.03,
    "isotropic": 0.25 * (1 + 0.74 / BATCHES),
    "directional": 0.25 * (1 + 29 / BATCHES),
    "fitted": 0.25 * (1 + 62 / BATCHES),
    "b_star_isotropic": 0.74,
    "b_star_directional": 29.0,
    "b_star_fitted": 62.0,
}
EIGENVALUES = {"largest": 3 + STEPS / 300, "largest, preconditioned": 1 + STEPS / 900, "smallest": -0.5 + 0 * STEPS}
THRESHOLDS = {"2/η": np.where(STEPS < 10000, 20.0, 100.0), "2(1+β)/η": 38.0}
INTERPOLATION = {
    "positions": POSITIONS,
    "train_loss": LOSS,
    "test_loss": LOSS + 0.1,
    "train_accuracy": 1 - LOSS / 4,
    "test_accuracy": 0.9 - LOSS / 4,
}
LAYERS = {
    "layer_names": np.array(["blocks.0.conv1.weight", "linear.weight", "linear.bias"]),
    "layer_distances": np.array([1.0, 3.0, 0.2]),
}
EXTREMES = {"eigenvalues": np.array([-0.4, 9.0, 4.0]), "residuals": np.array([0.1, 0.01, 0.2])}
LINES = {"positions": POSITIONS, "loss": np.stack([LOSS, LOSS**2, 1 + LOSS]), "accuracy": np.stack([1 - LOSS] * 3)}

CHARTS = {
    "spectrum": lambda: spectrum.spectrum(**SPECTRUM),
    "extremes": lambda: spectrum.extremes(**EXTREMES),
    "batch_hessian": lambda: batch_hessian.batch_hessian(**BATCH_HESSIAN),
    "eigenvalues": lambda: over_training.eigenvalues_over_training(STEPS, EIGENVALUES, THRESHOLDS),
    "noise_scale": lambda: over_training.noise_scale(
        STEPS, {"of the step": 30 + STEPS, "smoothed": 40 + STEPS}, batch=128
    ),
    "displacement": lambda: over_training.displacement(STEPS, {"from the start": STEPS**0.6, "between": STEPS**0.3}),
    "layers": lambda: over_training.layer_displacement(**LAYERS),
    "lines": lambda: landscape.lines(**LINES, normalization="filter-normalized"),
    "surface": lambda: landscape.surface(X, Y, SURFACE, normalization="filter-normalized"),
    "interpolation": lambda: landscape.interpolation(**INTERPOLATION, ends=("small batch", "large batch")),
}
every_chart = pytest.mark.parametrize("made", CHARTS.values(), ids=CHARTS)


def line(axes, label):
    """The one line of ``axes`` with this label, as arrays x and y."""
    (found,) = [line for line in axes.get_lines() if line.get_label() == label]
    return np.asarray(found.get_xdata(), float), np.asarray(found.get_ydata(), float)


def shown_texts(figure):
    """Every text on the figure, but tick labels outside the range of their axis, which are not drawn."""
    figure.draw_without_rendering()
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            slack = 1e-9 * (high - low)
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low - slack <= tick.get_loc() <= high + slack:
                    hidden |= {tick.label1, tick.label2}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in texts if text not in hidden]


def overlaps(figure):
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown_texts(figure)]
    return [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5
    ]


@every_chart
def test_no_two_texts_overlap_and_none_leaves_the_figure(made):
    figure = made().matplotlib()
    assert overlaps(figure) == []
    outside = [
        text.get_text()
        for text in shown_texts(figure)
        if text.get_window_extent().x0 < -0.5
        or text.get_window_extent().y0 < -0.5
        or text.get_window_extent().x1 > figure.bbox.x1 + 0.5
        or text.get_window_extent().y1 > figure.bbox.y1 + 0.5
    ]
    assert outside == []


def test_the_look_for_overlaps_sees_one():
    figure = CHARTS["spectrum"]().matplotlib()
    figure.axes[0].text(0.5, 0, "in the way", transform=figure.axes[0].transAxes, va="top")
    assert overlaps(figure)


@every_chart
def test_the_legend_covers_no_axes(made):
    figure = made().matplotlib()
    figure.draw_without_rendering()
    for legend, axes in itertools.product(figure.legends, figure.axes):
        assert legend.get_window_extent().y0 >= axes.bbox.y1 - 0.5


@every_chart
def test_the_axes_are_named(made):
    figure = made().matplotlib()
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert panels[-1].get_xlabel()
    for axes in panels:
        # Layers have names of their own in place of the name of an axis.
        assert (
            axes.get_ylabel()
            or [label.get_text() for label in axes.get_yticklabels()] == LAYERS["layer_names"].tolist()
        )


@every_chart
def test_a_figure_fills_a_column_or_a_page(made):
    """A page where long names stand at the left."""
    width = paper.PAGE if made().horizontal else paper.COLUMN
    assert made().matplotlib().get_size_inches()[0] == width


@every_chart
def test_lines_differ_by_more_than_colour(made):
    for axes in made().matplotlib().axes:
        looks = [
            (line._unscaled_dash_pattern, line.get_marker())
            for line in axes.get_lines()
            if not line.get_label().startswith("_")
        ]
        assert len(set(looks)) == len(looks)


def luminance(colour):
    """Relative luminance by Rec. 709, of linear light."""
    linear = [((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92 for c in to_rgb(colour)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_the_first_four_colours_differ_in_grey_and_all_series_in_dashes_and_marker():
    greys = sorted(luminance(series.colour) ** (1 / 2.2) for series in styles.PALETTE[:4])
    assert min(np.diff(greys)) > 0.15
    for name in ("colour", "dashes", "marker", "symbol"):
        assert len({getattr(series, name) for series in styles.PALETTE}) == len(styles.PALETTE)


def test_the_colour_map_grows_lighter_from_end_to_end():
    from matplotlib import colormaps

    shades = [luminance(colour[:3]) for colour in colormaps[paper.COLOUR_MAP](np.linspace(0, 1, 64))]
    assert min(np.diff(shades)) > 0


def test_spectrum_draws_density_and_error_and_marks_the_ends():
    (axes,) = CHARTS["spectrum"]().matplotlib().axes
    x, y = line(axes, "mean, ± 1 standard error")
    np.testing.assert_array_equal(x, GRID)
    np.testing.assert_array_equal(y, DENSITY)
    np.testing.assert_array_equal(line(axes, "smallest, largest")[0], [-0.8, 13.0])
    assert axes.get_yscale() == "log"
    (band,) = [one for one in axes.collections if not isinstance(one, PathCollection)]
    peak = np.argmax(DENSITY)
    corners = band.get_paths()[0].vertices
    np.testing.assert_allclose(
        corners[np.isclose(corners[:, 0], GRID[peak]), 1], [0.8 * DENSITY[peak], 1.2 * DENSITY[peak]]
    )


def test_one_eigenvalue_of_many_is_within_the_axis_of_densities():
    # Smoothed by a Gaussian of standard deviation 0.1, one of P eigenvalues is a peak of 1 / (P 0.1 √(2π)).
    for dimension in (10**3, 10**6, 10**9):
        peak = 1 / (dimension * 0.1 * np.sqrt(2 * np.pi))
        assert spectrum.density_floor(GRID, DENSITY, dimension) < peak / 3


def test_extremes_are_drawn_in_descending_order_with_their_residuals():
    (axes,) = CHARTS["extremes"]().matplotlib().axes
    np.testing.assert_array_equal(line(axes, "eigenvalue")[1], [9.0, 4.0, -0.4])
    (bars,) = axes.collections
    np.testing.assert_allclose([np.ptp(bar[:, 1]) / 2 for bar in bars.get_segments()], [0.01, 0.2, 0.1])


def test_batch_hessian_draws_mean_range_predictions_and_both_ends():
    upper, lower = CHARTS["batch_hessian"]().matplotlib().axes
    for axes, values in ((upper, TOP), (lower, BOTTOM)):
        np.testing.assert_allclose(line(axes, "measured: mean, range")[1], values.mean(axis=1))
        (bars,) = axes.collections
        drawn = np.array([bar[:, 1] for bar in bars.get_segments()])
        np.testing.assert_allclose(drawn, np.stack([values.min(axis=1), values.max(axis=1)], axis=1))
    for name, b_star in (("isotropic", "0.74"), ("directional", "29"), ("fitted", "62")):
        np.testing.assert_array_equal(line(upper, f"{name}, b* = {b_star}")[1], BATCH_HESSIAN[name])
    assert set(line(upper, "all examples")[1]) == {0.25}
    assert -0.03 in [one.get_ydata()[0] for one in lower.get_lines()]


def test_eigenvalues_are_drawn_beside_thresholds_that_change():
    (axes,) = CHARTS["eigenvalues"]().matplotlib().axes
    for label, values in EIGENVALUES.items():
        np.testing.assert_array_equal(line(axes, label)[1], values)
    np.testing.assert_array_equal(line(axes, "2/η")[1], THRESHOLDS["2/η"])
    assert set(line(axes, "2(1+β)/η")[1]) == {38.0}


def test_noise_scale_has_a_gap_where_it_has_no_value():
    scales = np.array([10.0, np.nan, -5.0, np.inf, 40.0])
    (axes,) = over_training.noise_scale(np.arange(5), {"of the step": scales}).matplotlib().axes
    np.testing.assert_array_equal(line(axes, "of the step")[1], [10.0, np.nan, np.nan, np.nan, 40.0])
    assert axes.get_yscale() == "log"


def test_displacement_is_logarithmic_on_both_axes_and_a_square_root_is_parallel_to_the_guide():
    (axes,) = over_training.displacement(STEPS, {"from the start": 0.3 * np.sqrt(STEPS)}).matplotlib().axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    np.testing.assert_allclose(line(axes, "from the start")[1][1:], 0.3 * np.sqrt(STEPS[1:]))
    np.testing.assert_allclose(line(axes, over_training.DIFFUSION)[1][1:], 0.3 * np.sqrt(STEPS[1:]))


def test_layers_are_drawn_by_name():
    (axes,) = CHARTS["layers"]().matplotlib().axes
    assert [bar.get_width() for bar in axes.patches] == [1.0, 3.0, 0.2]
    assert [label.get_text() for label in axes.get_yticklabels()] == LAYERS["layer_names"].tolist()


def test_lines_and_interpolation_draw_loss_above_accuracy():
    upper, lower = CHARTS["lines"]().matplotlib().axes
    for number in range(3):
        np.testing.assert_array_equal(line(upper, f"direction {number + 1}")[1], LINES["loss"][number])
        np.testing.assert_array_equal(line(lower, f"direction {number + 1}")[1], LINES["accuracy"][number])
    upper, lower = CHARTS["interpolation"]().matplotlib().axes
    for split in ("train", "test"):
        np.testing.assert_array_equal(line(upper, split)[1], INTERPOLATION[f"{split}_loss"])
        np.testing.assert_array_equal(line(lower, split)[1], INTERPOLATION[f"{split}_accuracy"])
    assert lower.get_xlabel() == "Position (0: small batch, 1: large batch)"


def test_levels_are_even_in_the_logarithm_and_end_at_ten_thousand_times_the_lowest():
    wide = surface.levels([1e-2, 3.0, 1e9, np.inf, np.nan])
    np.testing.assert_allclose(wide[[0, -1]], [1e-2, 1e2])
    np.testing.assert_allclose(np.diff(np.log(wide)), np.log(1e4) / 15)
    np.testing.assert_allclose(surface.levels([-1.0, 0.0, 14.0]), np.arange(-1.0, 15.0))


@pytest.mark.parametrize(
    "loss", [np.full((17, 21), np.nan), np.full((17, 21), 2.3), np.where(SURFACE > 6, np.inf, SURFACE)]
)
def test_a_surface_without_finite_values_without_relief_or_with_infinite_corners_is_drawn(loss, tmp_path):
    chart = landscape.surface(X, Y, loss)
    figure = chart.matplotlib()
    save(figure, tmp_path / "surface")
    assert bool(figure.legends) == (not np.isfinite(loss).all())
    assert overlaps(figure) == []
    assert chart.plotly().to_json()


def test_corners_that_are_not_finite_are_hatched_and_the_rest_is_coloured(tmp_path):
    loss = SURFACE.copy()
    loss[:6, :6] = np.inf
    figure = landscape.surface(X, Y, loss).matplotlib()
    png, _ = save(figure, tmp_path / "surface")
    image = imread(png)[..., :3]
    box = figure.axes[0].bbox.transformed(figure.dpi_scale_trans.inverted())
    left, right, bottom, top = (round(300 * side) for side in (box.x0, box.x1, box.y0, box.y1))
    inside = image[image.shape[0] - top : image.shape[0] - bottom, left:right]
    colour = np.ptp(inside, axis=-1)
    height, width = colour.shape
    # Grey, and not plain: the shade changes along a row where it crosses the hatches.
    assert colour[-height // 6 :, : width // 6].max() < 0.02
    assert np.ptp(inside[-height // 8, 20 : width // 6]) > 0.05
    assert np.mean(colour[: height // 6, : width // 6] > 0.02) > 0.8


def test_planes_that_are_compared_have_one_scale_and_are_square():
    scale = landscape.scale_of([SURFACE, np.where(SURFACE > 6, np.inf, 3 * SURFACE), [[np.nan]]])
    finite = 3 * SURFACE[SURFACE <= 6]
    assert scale == (min(SURFACE.min(), finite.min()), max(SURFACE.max(), finite.max()))
    assert landscape.scale_of([np.full((2, 2), np.nan)]) is None
    charts = [landscape.surface(X, Y, loss, scale=scale) for loss in (SURFACE, 3 * SURFACE)]
    contours = [chart.plotly().data[0].contours for chart in charts]
    assert contours[0] == contours[1]
    assert 10 ** contours[0].start == pytest.approx(scale[0])
    bars = [chart.matplotlib().axes[1].get_yticks().tolist() for chart in charts]
    assert bars[0] == bars[1]
    assert charts[0].matplotlib().axes[0].get_aspect() == 1
    layout = charts[0].plotly().layout
    assert (layout.yaxis.scaleanchor, layout.yaxis.constrain, layout.xaxis.constrain) == ("x", "domain", "domain")
    again = from_record(json.loads(json.dumps(to_record(charts[0]))))
    assert again.surface.range == scale


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_leave_gaps(value):
    broken = LOSS.copy()
    broken[3] = value
    charts = [
        landscape.lines(POSITIONS, broken),
        landscape.interpolation(POSITIONS, broken, broken),
        spectrum.spectrum(GRID, np.where(GRID > 5, value, DENSITY)),
        over_training.eigenvalues_over_training(POSITIONS, {"largest": broken}, {"2/η": value}),
        batch_hessian.batch_hessian(
            **{**BATCH_HESSIAN, "top": np.where(TOP > 10, value, TOP), "fitted": np.full(10, value)}
        ),
    ]
    figures = [chart.matplotlib() for chart in charts]
    for figure in figures:
        figure.draw_without_rendering()
        low, high = figure.axes[0].get_ylim()
        assert np.isfinite([low, high]).all()
    assert not np.isfinite(line(figures[0].axes[0], "direction 1")[1][3])


def test_saving_writes_both_formats_with_fonts_embedded_and_the_same_bytes_again(tmp_path):
    png, pdf = save(CHARTS["extremes"]().matplotlib(), tmp_path / "new" / "spectrum-0.5")
    assert (png.name, pdf.name) == ("spectrum-0.5.png", "spectrum-0.5.pdf")
    assert imread(png).shape[1] == round(paper.COLUMN * 300)
    content = pdf.read_bytes()
    assert b"/CIDFontType2" in content
    assert b"/Type3" not in content
    again = save(CHARTS["extremes"]().matplotlib(), tmp_path / "again.pdf")
    assert [path.read_bytes() for path in again] == [png.read_bytes(), content]


MEASUREMENTS = {
    "spectrum-000100": SPECTRUM,
    "eigenvalues-7": EXTREMES,
    "extremes-7": EXTREMES,  # of a run from before the probe had its name of now
    "batch_hessian-100": BATCH_HESSIAN,
    "landscape-1": {**LINES, "normalization": "filter"},
    "landscape-2": {"x": X, "y": Y, "loss_surface": SURFACE},
    "interpolation-3": INTERPOLATION,
    "displacement-5": LAYERS,
}


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_the_figure_of_a_file_is_that_of_its_probe(name, tmp_path):
    path = tmp_path / f"{name}.npz"
    np.savez(path, **MEASUREMENTS[name])
    expected = {
        "spectrum-000100": "Eigenvalue of the Hessian",
        "eigenvalues-7": "Rank among the eigenvalues computed",
        "extremes-7": "Rank among the eigenvalues computed",
        "batch_hessian-100": "Batch size (examples)",
        "landscape-1": "Position along the direction (filter-normalized)",
        "landscape-2": "Direction 1",
        "interpolation-3": "Position (0: first point, 1: second point)",
        "displacement-5": "Distance of the parameters",
    }
    panels = [axes for axes in chart_for(path).matplotlib().axes if axes.get_label() != "<colorbar>"]
    assert panels[-1].get_xlabel() == expected[name]


def test_files_that_cannot_be_drawn(tmp_path):
    assert chart_for(tmp_path / "gradient_statistics-3.npz") is None
    np.savez(tmp_path / "spectrum-3.npz", grid=GRID)
    with pytest.raises(KeyError, match="density"):
        chart_for(tmp_path / "spectrum-3.npz")
    np.savez(tmp_path / "eigenvalues-3.npz", eigenvalues=np.array([{}], dtype=object), residuals=np.zeros(1))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        chart_for(tmp_path / "eigenvalues-3.npz")


@every_chart
def test_a_chart_of_a_page_is_valid_json_with_named_axes(made):
    content = json.loads(made().plotly().to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    axes = {name: axis for name, axis in content["layout"].items() if name.startswith(("xaxis", "yaxis"))}
    named = [name for name, axis in axes.items() if axis.get("title", {}).get("text")]
    below = [name for name in named if name[0] == "x"]
    # Layers have names of their own in place of the name of an axis.
    assert below
    assert "ticktext" in axes["yaxis"] or len(named) - len(below) == len([name for name in axes if name[0] == "y"])


def traces(name):
    return {trace.name: trace for trace in CHARTS[name]().plotly().data if trace.name and trace.showlegend is not False}


def test_pages_draw_what_charts_are_given():
    found = traces("batch_hessian")
    np.testing.assert_allclose(found["measured: mean, range"].y, TOP.mean(axis=1))
    np.testing.assert_allclose(found["measured: mean, range"].error_y.array, TOP.max(axis=1) - TOP.mean(axis=1))
    np.testing.assert_array_equal(found["directional, b* = 29"].y, BATCH_HESSIAN["directional"])
    np.testing.assert_array_equal(traces("eigenvalues")["largest"].y, EIGENVALUES["largest"])
    limit = traces("eigenvalues")["2/η"]
    np.testing.assert_array_equal(limit.y, THRESHOLDS["2/η"])
    assert limit.line.shape == "hv"
    np.testing.assert_array_equal(traces("spectrum")["mean, ± 1 standard error"].y, DENSITY)
    contour = CHARTS["surface"]().plotly().data[0]
    np.testing.assert_allclose(10 ** np.array(contour.z, float), SURFACE)
    np.testing.assert_array_equal(np.array(contour.customdata, float), SURFACE)


def test_panels_with_axes_of_their_own_are_named_and_scaled_each_for_itself():
    layout = CHARTS["lines"]().plotly().layout
    assert (layout.yaxis.title.text, layout.yaxis2.title.text) == ("Loss", "Accuracy")
    assert layout.yaxis.tickformat == ".3~g"
    assert layout.yaxis2.tickformat.endswith("%")
    assert layout.yaxis2.matches is None
    low, high = CHARTS["spectrum"]().plotly().layout.yaxis.range
    assert 10**low == pytest.approx(spectrum.density_floor(GRID, DENSITY, 1000))
    assert 10**high == pytest.approx(4 * DENSITY.max())


def test_gaps_of_pages_are_null_and_the_pointer_shows_the_loss_above_the_last_level():
    loss = SURFACE.copy()
    loss[0, 0], loss[0, 1] = np.nan, 1e9
    contour = landscape.surface(X, Y, loss).plotly().data[0]
    assert contour.z[0][0] is None
    assert contour.z[0][1] == pytest.approx(np.log10(0.05 * 1e4))
    assert contour.customdata[0][1] == 1e9


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("optbench.analysis", ["torch", "matplotlib", "plotly"]),
        ("optbench.analysis.charts.probe_files", ["torch", "matplotlib", "plotly"]),
        ("optbench.analysis.charts.chart_matplotlib", ["torch", "matplotlib.pyplot", "plotly"]),
        ("optbench.analysis.charts.chart_plotly", ["torch", "matplotlib"]),
    ],
)
def test_importing_loads_no_more_than_is_needed(module, absent):
    program = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == "[]"
