"""Charts: what matplotlib and plotly draw, read back from their figures, is what was given."""

import json

import numpy as np
import pytest

from optbench.analysis.charts.chart import Chart, Reference, Series, Surface, Values, in_one_style
from optbench.analysis.charts.paper import save
from optbench.analysis.charts.records import from_record, to_record
from optbench.analysis.charts.styles import LOOKS, PALETTE, look, looks_of, shaded
from optbench.analysis.findings import Findings
from optbench.config import choices, title

RATES = Series(label="sgd", x=[32, 64, 128], y=[0.1, 0.2, 0.3], low=[0.05, 0.1, 0.1], high=[0.2, 0.4, 0.9])


def chart(*series, **options):
    return Chart(name="rates", title="Rates", x_label="Batch", y_label="Rate", series=series, **options)


def lines(figure):
    """The labelled lines of the first panel, by label, as (x, y)."""
    return {
        line.get_label(): line.get_xydata() for line in figure.axes[0].lines if not line.get_label().startswith("_")
    }


def test_both_draw_the_points():
    drawn = chart(RATES, log_x=True, log_y=True, ticks_at_x=True)
    figure = drawn.matplotlib()
    np.testing.assert_allclose(lines(figure)["sgd"], [[32, 0.1], [64, 0.2], [128, 0.3]])
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"
    assert list(figure.axes[0].xaxis.get_majorticklocs()) == [32, 64, 128]
    [trace] = drawn.plotly().data
    assert (list(trace.x), list(trace.y)) == ([32, 64, 128], [0.1, 0.2, 0.3])
    assert drawn.plotly().layout.xaxis.type == "log"
    assert list(drawn.plotly().layout.xaxis.ticktext) == ["32", "64", "128"]


def test_bars_reach_from_low_to_high():
    [bars] = chart(RATES).matplotlib().axes[0].collections
    ends = [segment[:, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[0.05, 0.2], [0.1, 0.4], [0.1, 0.9]])
    error = chart(RATES).plotly().data[0].error_y
    np.testing.assert_allclose(np.array(RATES.y) - error.arrayminus, RATES.low)
    np.testing.assert_allclose(np.array(RATES.y) + error.array, RATES.high)


def test_a_band_has_gaps_where_an_end_is_missing():
    series = Series(label="a", x=[1, 2, 3, 4], y=[1, 1, 1, 1], low=[0.5, np.nan, 0.5, 0.5], high=[2] * 4, band=True)
    traces = [trace for trace in chart(series).plotly().data if trace.fill]
    assert [list(trace.x) for trace in traces] == [[1], [3, 4]]
    assert chart(series).matplotlib().axes[0].collections


def test_values_without_a_place_leave_a_gap():
    series = Series(label="a", x=[1, 2, 3, 4], y=[1.0, -1.0, np.inf, np.nan])
    assert list(chart(series, log_y=True).plotly().data[0].y) == [1, None, None, None]
    assert list(chart(series).plotly().data[0].y) == [1, -1, None, None]
    assert np.isnan(lines(chart(series, log_y=True).matplotlib())["a"][1:, 1]).all()


@pytest.mark.parametrize("horizontal", [False, True])
def test_series_stand_side_by_side_in_a_category(horizontal):
    pair = [Series(label=name, x=["adam", "kfac"], y=[0.8, 0.9], kind="bars") for name in ("tuned", "default")]
    drawn = chart(*pair, horizontal=horizontal)
    figure = drawn.plotly()
    places = [trace.y if horizontal else trace.x for trace in figure.data]
    np.testing.assert_allclose(places, [[-0.2, 0.8], [0.2, 1.2]])
    values = [trace.x if horizontal else trace.y for trace in figure.data]
    np.testing.assert_allclose(values, [[0.8, 0.9]] * 2)
    axis = figure.layout.yaxis if horizontal else figure.layout.xaxis
    assert list(axis.ticktext) == ["adam", "kfac"]
    axes = drawn.matplotlib().axes[0]
    ticks = axes.get_yticklabels() if horizontal else axes.get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["adam", "kfac"]
    size = "get_width" if horizontal else "get_height"
    np.testing.assert_allclose([getattr(bar, size)() for bar in axes.patches], [0.8, 0.9, 0.8, 0.9])
    assert axes.get_xlabel() == ("Rate" if horizontal else "Batch")


def test_panels_share_looks_and_axes():
    parts = [Series(label=label, panel=panel, x=[1, 2], y=[1, 2]) for panel in "abcd" for label in ("sgd", "adam")]
    drawn = chart(*parts)
    wide, narrow = drawn.plotly(), drawn.plotly(narrow=True)
    assert [trace.line.color for trace in wide.data] == [look(0).colour, look(1).colour] * 4
    assert [trace.showlegend for trace in wide.data] == [True, True, *[False] * 6]
    assert [trace.xaxis for trace in wide.data] == [trace.xaxis for trace in narrow.data]
    assert wide.layout.yaxis3.matches == "y"
    # Two columns and two rows; in one column four rows.
    assert wide.layout.xaxis2.domain[0] > wide.layout.xaxis.domain[1]
    assert wide.layout.yaxis3.domain[1] < wide.layout.yaxis.domain[0]
    assert narrow.layout.xaxis2.domain == narrow.layout.xaxis.domain == (0, 1)
    figure = drawn.matplotlib()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b", "c", "d"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sgd", "adam"]


def test_a_series_of_a_later_panel_is_in_the_legend():
    parts = [Series(label="a", panel="1", x=[1], y=[1]), Series(label="b", panel="2", x=["1"], y=[1], kind="bars")]
    figure = chart(*parts).matplotlib()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_reference_lines_keep_their_dashes():
    law = Series(label="linear", panel="b", x=[1, 2], y=[1, 2], kind="reference")
    parts = [Series(label="a", panel=panel, x=[1, 2], y=[1, 2]) for panel in "ab"]
    drawn = chart(*parts, law, references=[Reference(1.5, "limit"), Reference(1.2, axis="x", panel="b")])
    shapes = drawn.plotly().layout.shapes
    limits = [shape for shape in shapes if shape.name == "limit"]
    assert [(shape.y0, shape.y1, shape.yref) for shape in limits] == [(1.5, 1.5, "y"), (1.5, 1.5, "y2")]
    assert limits[0].line.dash == limits[1].line.dash
    assert [shape.showlegend for shape in limits] == [True, False]
    [upright] = [shape for shape in shapes if shape.x0 == 1.2]
    assert (upright.xref, upright.yref) == ("x2", "y2 domain")
    second = drawn.matplotlib().axes[1]
    # matplotlib tells of any dashes only that there are some.
    dashes = {line.get_label(): line._unscaled_dash_pattern for line in second.lines}
    assert dashes["limit"] != dashes["linear"]
    assert (
        dashes["limit"]
        == {line.get_label(): line._unscaled_dash_pattern for line in drawn.matplotlib().axes[0].lines}["limit"]
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("horizontal", [False, True])
@pytest.mark.parametrize("kind", ["line", "bars"])
@pytest.mark.parametrize(("x", "y"), [([64], [0.1]), ([0], [0.1]), ([64], [np.nan]), ([], [])], ids=str)
def test_a_panel_with_one_point_or_none_is_drawn_on_logarithmic_axes(x, y, kind, horizontal):
    """Even where the point has no place on them."""
    alone = Series(label="a", panel="alone", x=x, y=y, kind=kind)
    options = {"log_x": not horizontal, "log_y": True, "share_y": False, "horizontal": horizontal}
    drawn = chart(alone, **options).matplotlib()
    drawn.draw_without_rendering()
    if x == [64] and y == [0.1]:
        assert (drawn.axes[0].get_xscale() if horizontal else drawn.axes[0].get_yscale()) == "log"
    beside = Series(label="b", panel="beside", x=[32, 64], y=[0.1, 0.2])
    for series in ((alone, beside), (beside, alone)):
        figure = chart(*series, **options).matplotlib()
        figure.draw_without_rendering()
        full = figure.axes[series.index(beside)]
        assert (full.get_xscale() if horizontal else full.get_yscale()) == "log"
        assert {text.get_text() for text in figure.legends[0].get_texts()} == {"a", "b"}


def test_percent():
    series = Series(label="a", x=[1, 2], y=[0.5, 0.75])
    figure = chart(series, percent_y=True).matplotlib()
    assert "%" in figure.axes[0].yaxis.get_major_formatter()(0.5, 0)
    assert chart(series, percent_y=True).plotly().layout.yaxis.tickformat.endswith("%")


def test_more_series_than_colours_are_told_apart():
    looks = [look(index) for index in range(21)]
    assert len({(style.colour, style.dashes, style.marker) for style in looks}) == 21


def test_looks_can_be_chosen():
    first, second = Series(label="a", x=[1], y=[1]), Series(label="b", x=[1], y=[1], look=0)
    assert chart(first, second).looks() == {"a": look(1), "b": look(0)}


def test_a_logarithmic_axis_of_less_than_a_decade_has_a_few_plain_ticks():
    series = [
        Series(label="a", x=[0.13, 0.18], y=[1, 2], panel="narrow"),
        Series(label="a", x=[1, 1e3], y=[1, 2], panel="wide"),
    ]
    figure = Chart(name="a", title="A", log_x=True, x_labels={"narrow": "x", "wide": "x"}, series=series).matplotlib()
    figure.draw_without_rendering()
    narrow, wide = (
        [text.get_text() for text in axes.get_xticklabels(which="both") if text.get_text()] for axes in figure.axes
    )
    assert 2 <= len(narrow) <= 6
    assert all(float(text) for text in narrow)
    assert any("10" in text for text in wide)


def test_a_marker_beside_a_colour():
    one, two = (Series(label=label, x=[1], y=[1], look=2, marker=marker) for label, marker in (("a", 0), ("b", 1)))
    looks = in_one_style([chart(one, two)])[0].looks()
    assert looks["a"].colour == looks["b"].colour == look(2).colour
    assert [(looks[label].marker, looks[label].symbol) for label in "ab"] == [("o", "circle"), ("s", "square")]


def test_a_label_has_one_look_on_all_charts_of_a_page():
    """Also where it stands at another place among others, or alone."""
    charts = [
        chart(*[Series(label=label, x=[1], y=[1]) for label in labels])
        for labels in (["mine", "yours"], ["theirs", "yours"], ["theirs"])
    ]
    one, two, three = in_one_style(charts)
    assert one.looks() == {"mine": look(0), "yours": look(1)}
    assert two.looks() == {"theirs": look(0), "yours": look(1)}
    assert three.looks() == {"theirs": look(0)}
    # Drawn alone, the second chart would begin with the first look.
    assert charts[1].looks() == {"theirs": look(0), "yours": look(1)}
    later = in_one_style([charts[0], chart(*[Series(label=name, x=[1], y=[1]) for name in ("yours", "mine")])])[1]
    assert later.looks() == {"yours": look(1), "mine": look(0)}


def test_a_batch_size_has_one_shade_on_all_charts_of_a_page():
    """Also where the largest of the page is not on the chart."""
    sizes = (["batch 32", "batch 64"], ["batch 256", "batch 64"], ["batch 256"])
    one, two, three = in_one_style([chart(*[Series(label=label, x=[1], y=[1]) for label in own]) for own in sizes])
    assert one.looks() == {"batch 32": shaded(0), "batch 64": shaded(0.5)}
    assert two.looks() == {"batch 256": shaded(1), "batch 64": shaded(0.5)}
    assert three.looks() == {"batch 256": shaded(1)}


def test_an_optimizer_has_the_same_look_on_every_chart_of_every_study():
    for labels in (["SGD", "Adam"], ["Adam", "K-FAC", "SGD"], ["Adam"], ["something", "Adam"]):
        found = chart(*[Series(label=label, x=[1], y=[1]) for label in labels]).looks()
        assert found["Adam"] == look(LOOKS["Adam"])
        assert len(set(found.values())) == len(labels)


def test_the_table_of_looks_has_the_title_of_every_optimizer_and_no_two_look_alike():
    titles = {title("optimizer", name) for name in choices("optimizer")} - {"pytorch-optimizer"}
    assert titles <= LOOKS.keys()
    assert len({look(LOOKS[name]) for name in titles}) == len(titles)


RECORDED = {
    "panels": chart(
        Series(
            label="a", panel="1", x=[32, 64], y=[0.5, np.nan], low=[0.25, 0.1], high=[1, 2], band=True, kind="curve"
        ),
        Series(label="law", panel="2", x=[1, 2], y=[1, 2], kind="reference"),
        log_x=True,
        share_y=False,
        references=[Reference(0.5, "limit", panel="2"), Reference(0.125, axis="x")],
        values={"2": Values("Loss", log=True, range=(0.125, 8.0))},
    ),
    "words": chart(Series(label="b", x=["adam", "kfac"], y=[1, 2], kind="bars", texts=["x", "y"]), horizontal=True),
    "surface": Chart(name="plane", title="Plane", surface=Surface([0, 1], [0, 1], [[1, np.inf], [2, 30]], mark=None)),
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_chart_is_drawn_as_the_chart_itself(name):
    given = RECORDED[name]
    text = json.dumps(to_record(given), allow_nan=False)
    again = from_record(json.loads(text))
    assert again.plotly().to_json() == given.plotly().to_json()
    assert again.plotly(narrow=True).to_json() == given.plotly(narrow=True).to_json()
    # In a record only what differs from the defaults.
    assert "columns" not in text
    assert json.dumps(to_record(again)) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": [1, 1]}, "low and high"),
        ({"low": [1], "high": [1, 2]}, "different lengths"),
        ({"texts": []}, "lengths"),
    ],
)
def test_what_does_not_fit_together_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Series(label="a", x=[1, 2], y=[1, 2], **options)


def test_findings_refuse_names_that_are_no_files():
    twice = [chart(RATES), chart(RATES)]
    with pytest.raises(ValueError, match="two charts are called rates"):
        Findings("?", "!", charts=twice)
    with pytest.raises(ValueError, match="names files"):
        Findings("?", "!", tables={"../x": None})


def test_the_legend_shows_each_reference_with_its_own_dashes():
    """A reference that only the second panel has is drawn in the legend as it is drawn there."""
    chart = Chart(
        name="two",
        title="",
        x_label="x",
        y_label="y",
        series=[Series(label="a", x=[1, 2], y=[1, 2], panel=panel) for panel in ("first", "second")],
        references=[Reference(1.5, "everywhere"), Reference(1.2, "there", panel="second")],
    )
    figure = chart.matplotlib()
    [legend] = figure.legends
    dashes = {text.get_text(): line._dash_pattern for text, line in zip(legend.texts, legend.get_lines(), strict=True)}
    drawn = {line.get_label(): line._dash_pattern for line in figure.axes[1].get_lines()}
    assert dashes["there"] == drawn["there"]
    assert dashes["there"] != dashes["everywhere"]


def test_batch_sizes_are_shades_in_their_order_and_never_repeat():
    series = [Series(label=f"batch {size:,}", x=[1], y=[1]) for size in (4096, 16, 1024, 64)]
    looks = Chart(name="a", title="A", series=[*series, Series(label="Adam", x=[1], y=[1])]).looks()
    brightness = {
        label: sum(int(style.colour[start : start + 2], 16) for start in (1, 3, 5)) for label, style in looks.items()
    }
    assert brightness["batch 16"] > brightness["batch 64"] > brightness["batch 1,024"] > brightness["batch 4,096"]
    many = [Series(label=f"batch size {size}", x=[1], y=[1]) for size in range(1, 31)]
    assert len({style.colour for style in Chart(name="a", title="A", series=many).looks().values()}) == 30
    # One batch size is no order.
    assert Chart(name="a", title="A", series=series[:1]).looks()["batch 4,096"].colour == PALETTE[0].colour


@pytest.mark.parametrize(
    ("values", "ticks"),
    [([1e-6, 1.0], {"dtick": 1, "exponentformat": "power"}), ([1e-12, 1.0], {"dtick": 2, "exponentformat": "power"}),
     ([1.0, 99.0], {"dtick": "D2", "tickformat": ".3~g"}), ([1.0, 3.0], {"nticks": 5, "tickformat": ".3~g"})],
)  # fmt: skip
def test_ticks_of_a_logarithmic_axis_are_whole_numbers_that_do_not_overlap(values, ticks):
    chart = Chart(name="a", title="A", log_y=True, series=[Series(label="a", x=[1, 2], y=values)])
    axis = chart.plotly().layout.yaxis
    assert {name: axis[name] for name in ("dtick", "nticks", "tickformat", "exponentformat") if axis[name]} == ticks


def test_panels_leave_as_few_places_empty_as_they_can():
    def columns(count):
        return Chart(
            name="a", title="A", series=[Series(label="a", x=[1], y=[1], panel=f"p{n}") for n in range(count)]
        ).panel_columns

    assert [columns(count) for count in (1, 2, 3, 4, 5, 6)] == [1, 2, 3, 2, 3, 2]


def test_points_that_are_runs_have_one_run_each():
    with pytest.raises(ValueError, match="texts and runs are of different lengths"):
        Series(label="a", x=[1, 2], y=[1, 2], runs=["one"])
    chart = Chart(name="a", title="A", series=[Series(label="a", x=[1, 2], y=[1, 2], runs=["one", "two"])])
    assert chart.plotly().data[0].meta == {"runs": ["one", "two"]}
    assert from_record(to_record(chart)).series == chart.series


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("x", [[1, 2], ["a", "b"]])
@pytest.mark.parametrize("y", [[], [float("nan")] * 2, [0.0, -1.0], [1.0, float("nan")]])
def test_what_is_missing_draws_no_warning(x, y, log, tmp_path):
    interval = {"low": y, "high": y} if y else {}
    series = Series(label="a", x=x[: len(y)], y=y, panel="p", **interval)
    drawn = Chart(name="a", title="A", log_x=log, log_y=log, ticks_at_x=not isinstance(x[0], str), series=[series])
    drawn.plotly()
    save(drawn.matplotlib(), tmp_path / "a")
    assert drawn.has_values == (len(y) > 0 and bool(np.isfinite(y).any()))
    assert not Chart(name="a", title="A").has_values


def test_a_curve_between_points_has_no_ticks():
    points = Series(label="a", x=[8, 16, 32], y=[1, 2, 3], kind="points")
    law = Series(label="law", x=[8, 11.3, 32], y=[1, 1.5, 3], kind="curve")
    assert Chart(name="a", title="A", ticks_at_x=True, series=[points, law]).ticks() == [8, 16, 32]


def test_methods_whose_colours_are_equal_differ_on_one_chart_and_alone_keep_theirs():
    assert {LOOKS[name] % len(PALETTE) for name in ("Muon", "Adafactor")} == {LOOKS["Muon"]}
    found = looks_of([["Adafactor", "Muon", "mine"], ["SGD"]])
    assert found["Muon"] == LOOKS["Muon"]
    assert len({number % len(PALETTE) for number in map(found.get, ("Muon", "Adafactor", "mine"))}) == 3
    assert looks_of([["Adafactor"], ["Muon"]]) == {name: LOOKS[name] for name in ("Adafactor", "Muon")}
    every = looks_of([list(LOOKS)])
    assert (
        len({every[name] for name in every if name not in ("measured", "train", "test", "validation")})
        == len(every) - 4
    )


def test_categories_are_named_at_the_left_panel_of_a_row_alone():
    series = [Series(label="a", panel=panel, x=["long", "longer"], y=[1, 2], kind="points") for panel in ("p", "q")]
    figure = Chart(name="c", title="C", horizontal=True, series=series).plotly()
    assert [figure.layout[axis].showticklabels for axis in ("yaxis", "yaxis2")] == [True, False]
    narrow = Chart(name="c", title="C", horizontal=True, series=series).plotly(narrow=True)
    assert [narrow.layout[axis].showticklabels for axis in ("yaxis", "yaxis2")] == [True, True]
