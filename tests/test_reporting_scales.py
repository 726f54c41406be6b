"""Scales of accuracies and shares, and labels of points that nearly coincide."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from snnconv.reporting.frontier import beside_each_other, compared, draw_frontier, ranges
from snnconv.reporting.scales import below_all, by_error, by_magnitude, down_to_none, from_errors, magnitude, to_errors
from snnconv.reporting.style import drawing


@given(st.floats(0, 100))
def test_the_scale_of_errors_has_an_inverse(accuracy: float) -> None:
    assert from_errors(to_errors(accuracy)) == pytest.approx(accuracy, abs=1e-9)


def test_errors_ten_times_smaller_lie_one_further_up() -> None:
    assert to_errors(99.92) - to_errors(99.02) == pytest.approx(1.0)  # 0.1 and 1 below where the scale ends
    assert to_errors(100.0) > to_errors(99.99)


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ((10.0, 99.6), {"99.5", "99", "98", "95", "90", "80"}),
        ((20.0, 60.0), {"20", "40", "60"}),
        ((99.0, 100.0), {"100", "99.9", "99.5", "99"}),
        ((5.8, 7.8), {"4", "6", "8"}),
        ((99.52, 99.58), {"99.525", "99.55", "99.575"}),
    ],
)
def test_ticks_of_accuracies_are_those_within_and_never_crowd(
    accuracies: tuple[float, ...], expected: set[str]
) -> None:
    axes = Figure().subplots()
    axes.plot(range(len(accuracies)), accuracies)
    by_error(axes)
    low, high = axes.get_ylim()
    assert low < min(accuracies) and high > max(accuracies)
    names = {label.get_text() for label in axes.get_yticklabels()}
    assert expected <= names
    places = sorted(to_errors(float(name)) for name in names)
    gap = 0.05 * (to_errors(high) - to_errors(low))
    assert all(b - a > gap for a, b in itertools.pairwise(places))


def test_none_lies_at_the_foot_of_a_log_axis() -> None:
    assert below_all([0.0, 0.02, 30.0]) == pytest.approx(1e-3)
    assert below_all([0.0]) == pytest.approx(0.1)
    axes = Figure().subplots()
    axes.plot([1, 2, 3], [30.0, 0.002, 1e-4])
    down_to_none(axes, 1e-4)
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "0",
        *(f"$10^{{{power}}}$" for power in (-3, -2, -1, 0, 1)),
    ]
    axes = Figure().subplots()
    axes.plot([1, 2], [30.0, 0.02])
    down_to_none(axes, 1e-3)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "0.01", "0.1", "1", "10"]


@given(st.floats(0, 9), st.floats(0.352, 4))
@example(6.43, 0.4)  # 2.7 M to 6.8 M
def test_ticks_of_costs_never_crowd(low: float, decades: float) -> None:
    with drawing():
        figure = Figure(figsize=(5.2, 4.2))
        axes = figure.subplots()
        by_magnitude(axes, 10**low, 10 ** (low + decades))
        figure.draw_without_rendering()
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert 2 <= len(boxes) <= 6
    assert all(first.x1 < second.x0 for first, second in itertools.pairwise(boxes))


def test_names_of_magnitudes() -> None:
    assert [magnitude(value) for value in (2.0, 20.0, 1500.0, 5e5, 1.5e6, 2e9)] == [
        "2", "20", "1.5 k", "500 k", "1.5 M", "2 G"
    ]  # fmt: skip


def test_numbers_in_short() -> None:
    assert ranges([3]) == "3"
    assert ranges([1, 4, 5, 6, 9]) == "1, 4-6, 9"


def test_points_that_nearly_coincide_have_one_label() -> None:
    axes = Figure().subplots()
    axes.set(xscale="log", xlim=(1, 100), ylim=(90, 100))
    spots = [(10.0, 95.0), (10.5, 95.1), (11.0, 95.0), (10.0, 97.0), (40.0, 95.0)]
    labels = beside_each_other(axes, spots, [1, 2, 3, 4, 5])
    assert labels == [("1-3", 11.0, 95.0), ("4", 10.0, 97.0), ("5", 40.0, 95.0)]


def point(number: int, accuracy: float, synops: float, latency: int | None, images: int = 500) -> dict[str, object]:
    return {
        "number": number,
        "accuracy": accuracy,
        "interval": (accuracy - 0.01, accuracy + 0.01),
        "images": images,
        "synops": synops,
        "latency": latency,
        "own": number == 1,
    }


def test_a_frontier_without_latencies_has_one_panel() -> None:
    points = [point(1, 0.9, 1e5, None), point(2, 0.8, 2e5, None)]
    one = draw_frontier(points)
    assert one == draw_frontier(points)
    two = draw_frontier([*points, point(3, 0.95, 3e6, 12)])
    assert b"latency" not in one and b"latency" in two and one.startswith(b"<?xml")


def test_the_best_for_its_cost_is_drawn_among_results_on_the_same_images() -> None:
    few = [point(number, 0.9 + number / 100, 1e5 * number, 5, images=500) for number in (1, 2, 3)]
    many = point(4, 0.9, 1e4, 5, images=10_000)
    assert (compared([*few, many]), compared([few[0], many])) == (500, 10_000)
    text = texts([*few, many])
    assert {"the best for its cost, on 500 images", "other runs", "other runs, on 10,000 images"} <= text
    assert not any("best" in words for words in texts([few[0], many]))  # a line takes two
    assert {"this run, on 500 images", "other runs"} <= texts([few[0], many])


def texts(points: list[dict[str, object]]) -> set[str]:
    """The words of a figure, which matplotlib keeps as comments beside their outlines."""
    return set(re.findall(r"<!-- (.*?) -->", draw_frontier(points).decode()))
