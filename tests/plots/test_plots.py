"""What is drawn is what was given: read back from the axes, without looking at a picture."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot
from matplotlib.colors import to_hex

from ean_lib import Scheme, SearchConfig, plots, search
from ean_lib.experiments.forms import FORMS


@pytest.fixture(autouse=True)
def no_figure_is_left_open():
    yield
    pyplot.close("all")


def colours_by_label(axis) -> dict[str, str]:
    handles, labels = axis.get_legend_handles_labels()
    return {label: to_hex(handle.get_color()).upper() for handle, label in zip(handles, labels, strict=True)}


def test_every_colour_is_told_apart_by_a_marker_too():
    for colours, markers in ((plots.FORM_COLOURS, plots.FORM_MARKERS), (plots.MODULE_COLOURS, plots.MODULE_MARKERS)):
        assert colours.keys() == markers.keys()
        assert len(set(colours.values())) == len(set(markers.values())) == len(colours)


def test_every_form_of_a_report_has_its_colour():
    assert list(plots.FORM_COLOURS) == list(FORMS)


def test_forms_shows_every_seed_and_the_mean():
    frame = pd.DataFrame({"form": ["ean", "ean", "backbone"], "accuracy": [90.0, 100.0, 45.0]})
    _, axis = plots.canvas(3)
    plots.forms(axis, frame)
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["backbone", "ean"]
    shown = [sorted(line.get_ydata()) for line in axis.get_lines()]
    assert shown == [[45.0], [90.0, 100.0]]
    means = [bar.get_segments()[0][0][1] for bar in axis.collections]
    assert means == [45.0, 95.0]
    assert to_hex(axis.get_lines()[1].get_color()).upper() == plots.FORM_COLOURS["ean"]


def test_forms_puts_an_unknown_form_last_and_keeps_a_given_order():
    frame = pd.DataFrame({"form": ["mine", "late", "ean"], "accuracy": [1.0, 2.0, 3.0]})
    for order, expected in ((None, ["ean", "late", "mine"]), (["late", "ean"], ["late", "ean"])):
        _, axis = plots.canvas(3)
        plots.forms(axis, frame, order)
        assert [tick.get_text() for tick in axis.get_xticklabels()] == expected


def test_a_landscape_has_a_point_for_each_scheme_at_its_value():
    values = {scheme: 50.0 + sum(scheme.bits) for scheme in Scheme.all_of((2, 1))}
    _, axis = plots.canvas(3)
    plots.landscape(axis, values)
    (points,) = axis.get_lines()
    for x, y in zip(points.get_xdata(), points.get_ydata(), strict=True):
        assert y == 50 + round(x)  # shifted by less than half a connection
    _, axis = plots.canvas(3)
    plots.landscape(axis, values, along="rank", groups=plots.STAGE_GROUPS)
    heights = np.concatenate([line.get_ydata() for line in axis.get_lines()])
    places = np.concatenate([line.get_xdata() for line in axis.get_lines()])
    assert sorted(places) == list(range(8))
    assert list(heights[places.argsort()]) == sorted(values.values(), reverse=True)
    with pytest.raises(ValueError, match="'connected' or 'rank', not along 'time'"):
        plots.landscape(axis, values, along="time")


def test_the_first_stage_of_a_scheme_is_counted_from_one():
    texts = ("00-00", "01-00", "00-10", "11-11")
    assert [plots.first_stage(Scheme.parse(text)) for text in texts] == [0, 1, 2, 1]


def test_schemes_are_filled_where_they_connect():
    named = {"SE": Scheme.parse("10-01"), "DIA": Scheme.parse("00-11")}
    _, axis = plots.canvas(2)
    plots.schemes(axis, named)
    filled = [to_hex(patch.get_facecolor()).upper() == plots.CONNECTED for patch in axis.patches]
    assert filled == [*named["SE"].bits, *named["DIA"].bits]
    assert [t.get_text() for t in axis.texts if t.get_text().startswith("stage")] == ["stage 1", "stage 2"]
    with pytest.raises(ValueError, match="the same stages"):
        plots.schemes(axis, named | {"other": Scheme.parse("1-1")})


def test_the_policy_and_the_search_over_time_show_what_the_search_recorded():
    result = search(lambda schemes: [50.0 + s.connected for s in schemes], (2, 1), SearchConfig(steps=7))
    steps = [record for record in result.history if "loss" in record]
    _, axes = plots.canvas(4, 2)
    plots.policy(axes, result.history, (2, 1))
    lines = [line.get_ydata() for axis in axes for line in axis.get_lines()]
    assert np.array_equal(np.array(lines).T, [record["probabilities"] for record in steps])
    _, (upper, lower) = plots.canvas(4, 2)
    plots.search_over_time(upper, lower, result.history, (2, 1))
    assert lower.images[0].get_array().shape == (3, len(steps))
    *_, baseline, best = upper.get_lines()
    assert list(baseline.get_ydata()) == [record["baseline"] for record in steps]
    assert list(best.get_ydata()) == [record["best_objective"] for record in steps]


def test_a_right_answer_is_green_and_a_wrong_one_orange():
    images = torch.rand(2, 3, 4, 4)
    maps, answers = {"EAN": torch.rand(2, 4, 4)}, {"EAN": ["disc", "ring"]}
    masks = [(torch.eye(4) > 0, torch.zeros(4, 4) > 0)] * 2
    notes = {"EAN": ["90%", "60%"]}
    figure = plots.pictures_with_maps(images, ["disc", "star"], maps, answers, notes, masks)
    titles = [axis.title for axis in figure.axes]
    assert [title.get_text() for title in titles] == [
        "it is:\ndisc",
        "EAN:\ndisc, 90%",
        "it is:\nstar",
        "EAN:\nring, 60%",
    ]
    assert [to_hex(title.get_color()).upper() for title in titles[1::2]] == [plots.RIGHT, plots.WRONG]


def test_the_cost_is_connections_where_a_time_is_missing():
    row = {"form": "ean", "attention": "se", "accuracy": 90.0, "std": 1.0, "connected": 2.0, "time_increment": 0.1}
    for times, label, x in (([0.1, 0.2], "relative time increment (%)", 10.0), ([0.1, None], "connected blocks", 2.0)):
        table = pd.DataFrame([row | {"time_increment": time} for time in times])
        _, axis = plots.canvas(3)
        plots.accuracy_against_cost(axis, table)
        assert axis.get_xlabel() == label
        assert axis.get_lines()[0].get_xdata()[0] == pytest.approx(x)


def test_curves_take_the_colours_that_they_are_given():
    _, axis = plots.canvas(3)
    lines = {"EAN": ([1, 2], [3, 4]), "mine": ([1, 2], [5, 6])}
    plots.curves(axis, lines, {"EAN": plots.FORM_COLOURS["ean"]}, {"EAN": ([2, 3], [4, 5])})
    assert colours_by_label(axis) == {"EAN": plots.BLUE, "mine": plots.ORANGE}
    assert [list(line.get_ydata()) for line in axis.get_lines()] == [[3, 4], [5, 6]]
    assert len(axis.collections) == 1  # the band of one of them


def test_time_increments_are_drawn_in_percent_with_their_quartiles():
    _, axis = plots.canvas(2)
    plots.time_increments(axis, {"backbone": 0.0, "ean": 0.12}, {"backbone": (-0.01, 0.01), "ean": (0.1, 0.15)})
    assert [bar.get_width() for bar in axis.patches] == pytest.approx([0.0, 12.0])
    assert to_hex(axis.patches[1].get_facecolor()).upper() == plots.FORM_COLOURS["ean"]


def test_pictures_fill_a_grid_in_order():
    figure = plots.pictures(torch.rand(5, 3, 4, 4), list("abcde"), columns=3)
    assert len(figure.axes) == 6
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c", "d", "e", ""]
