"""The line that says how a network takes its images."""

import pytest

from snnconv.config import Preprocessing, to_mapping
from snnconv.reporting.preprocessing import preprocessing_summary


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (Preprocessing(), "images: pixels / 255, no mean and sd (--mean, --sd)"),
        (Preprocessing(mean=(0.13,), sd=(0.31,)), "images: pixels / 255, mean 0.13, sd 0.31"),
        (
            Preprocessing(resize=256, crop=224, divisor=1.0, mean=(0.5, 0.4), sd=(0.2, 0.1)),
            "images: resized to 256, cropped to 224, pixels / 1, mean 0.5,0.4, sd 0.2,0.1",
        ),
        (
            Preprocessing(crop=24, standardise=True),
            "images: cropped to 24, each to mean 0 and standard deviation 1",
        ),
    ],
)
def test_the_preprocessing_in_a_line(settings: Preprocessing, line: str) -> None:
    assert preprocessing_summary(to_mapping(settings)) == line
