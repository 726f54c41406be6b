"""Estimates of energy: every term by hand, and the line of break-even."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from test_reporting_rows import result, simulated

from snnconv.energy import (
    LINE,
    PRESETS,
    SYSTEMS,
    estimate,
    estimates,
    fitting,
    matched_bits,
    multiply,
    narrowness,
    potential_bits,
    spike_rate,
    window,
)
from snnconv.errors import ConfigError, FormatError, RunError
from snnconv.reporting.energy import plot_energy
from snnconv.reporting.rows import result_from


def layer(name: str, kind: str, **values: Any) -> dict[str, Any]:
    zeros = {"units": 1, "levels": 1, "spikes": 0.0, "rate": 0.0, "macs": 0, "sops": {"synops": 0.0, "events": 0.0}}
    return zeros | {"name": name, "kind": kind} | values


def small(neuron: str = "ladder", steps: int = 1) -> dict[str, Any]:
    """An encoder of 8 units, a spiking layer of 16 with ternary weights and a readout, L = 3."""
    sops = [{"synops": 0.0, "events": 0.0}, {"synops": 100.0, "events": 60.0}, {"synops": 20.0, "events": 10.0}]
    codes = [{} if neuron == "ladder" else {"code_events": own["events"]} for own in sops]
    return {
        "neuron": neuron,
        "steps": steps,
        "layers": [
            layer("in", "encoder", units=8, levels=3, spikes=12.0, macs=50, sops=sops[0], **codes[0]),
            layer("hidden", "spiking", units=16, levels=3, spikes=6.0, macs=400, sops=sops[1], **codes[1]),
            layer("out", "readout", units=4, macs=64, sops=sops[2], **codes[2]),
        ],
        "operations": {
            "layers": [
                {"name": "in", "weight_bits": 32, "potential_bits": 0, "incoming_levels": 0},
                {"name": "hidden", "weight_bits": 2, "potential_bits": 9, "incoming_levels": 3},
                {"name": "out", "weight_bits": 32, "potential_bits": 64, "incoming_levels": 3},
            ]
        },
    }


def test_arithmetic_by_hand() -> None:
    # pJ: fp32 MAC 4.6, fp32 add 0.9, int8 MAC 0.23, int8 multiply 0.2, int8 add 0.03; matched: 2 bits x 2 bits
    mac = 0.2 * 2 * 2 / 64 + 0.03
    encoder = 50 * 4.6
    expected = {
        "spiking": (encoder, 100 * 0.03, 20 * 0.9),
        "matched": (encoder, 400 * mac, 64 * 4.6),
        "skipping": (encoder, 60 * mac, 10 * 4.6),
        "int8": (50 * 0.23, 400 * 0.23, 64 * 0.23),
        "fp32": (encoder, 400 * 4.6, 64 * 4.6),
    }
    found = estimate(small())
    assert list(found) == list(SYSTEMS) and set(found) == set(expected)
    own = sum(expected["spiking"])
    for system, parts in expected.items():
        assert [1000 * found[system][part] for part in ("encoder", "hidden", "readout")] == pytest.approx(parts)
        assert 1000 * found[system]["total"] == pytest.approx(sum(parts))
        assert found[system]["ratio"] == pytest.approx(own / sum(parts))
        assert found[system]["movement"] == 0


@pytest.mark.parametrize(("preset", "add"), [("45nm-int8", 0.03), ("45nm-int32", 0.1), ("45nm-fp32", 0.9)])
def test_presets_differ_in_the_adder_alone(preset: str, add: float) -> None:
    found, other = estimate(small(), preset), estimate(small())
    assert 1000 * found["spiking"]["hidden"] == pytest.approx(100 * add)
    assert 1000 * found["matched"]["hidden"] == pytest.approx(400 * (multiply(2, 2) + add))
    assert {name: found[name] | {"ratio": 0} for name in ("int8", "fp32")} == {
        name: other[name] | {"ratio": 0} for name in ("int8", "fp32")
    }
    assert set(PRESETS) == {"45nm-int8", "45nm-int32", "45nm-fp32"}


def test_movement_by_hand() -> None:
    # bits from and to SRAM, 10/64 pJ each; a spike is an address of log2(8) = 3 or log2(16) = 4 bits, there and back
    bits = {
        "spiking": 50 * 64 + 8 * 32 + 2 * 12 * 3 + 100 * (2 + 2 * 9) + 2 * 6 * 4 + 20 * (32 + 2 * 64),
        "matched": 50 * 64 + 8 * 32 + 400 * (2 + 2) + 16 * 2 + 64 * (32 + 2) + 4 * 2,
        "skipping": 50 * 64 + 8 * 32 + 60 * (2 + 2) + 16 * 2 + 10 * (32 + 2) + 4 * 2,
        "int8": (50 + 400 + 64) * 16 + (8 + 16 + 4) * 8,
        "fp32": (50 + 400 + 64) * 64 + (8 + 16 + 4) * 32,
    }
    still, moved = estimate(small()), estimate(small(), movement=True)
    for system, number in bits.items():
        assert 1000 * moved[system]["movement"] == pytest.approx(number * 10 / 64)
        assert moved[system]["total"] - still[system]["total"] == pytest.approx(moved[system]["movement"])
        assert moved[system]["total"] == pytest.approx(
            sum(moved[system][part] for part in ("encoder", "hidden", "readout"))
        )


def test_the_matched_ann_holds_as_many_values_as_a_wire_has_counts() -> None:
    assert [matched_bits(levels) for levels in (1, 2, 3, 4, 7, 8, 32)] == [1, 2, 2, 3, 3, 4, 6]
    assert [window(small(neuron, 12), 3) for neuron in ("ladder", "integrate-then-fire", "if", "st-bif")] == [
        3,
        3,
        12,
        12,
    ]
    assert estimates(small())["matched_bits"] == {"hidden": 2, "out": 2}
    counting_on = small("if", 12)
    counting_on["operations"]["layers"][1] |= {"incoming_levels": 12}
    assert estimates(counting_on)["matched_bits"] == {"hidden": 4, "out": 2}


def test_zeros_are_skipped_where_the_codes_have_them_whatever_the_neuron_sends() -> None:
    over_time = small("st-bif", 12)
    over_time["layers"][1]["sops"] = {"synops": 130.0, "events": 130.0}
    for movement in (False, True):
        found, expected = (estimate(own, movement=movement) for own in (over_time, small()))
        for system in ("matched", "skipping", "int8", "fp32"):
            assert {**found[system], "ratio": 0} == {**expected[system], "ratio": 0}
        assert found["spiking"]["hidden"] > expected["spiking"]["hidden"]
    del over_time["layers"][1]["code_events"]
    with pytest.raises(FormatError, match="has no 'code_events' to estimate energy from: run `snnconv simulate` again"):
        estimate(over_time)


def test_an_adder_too_narrow_for_the_potentials_is_told() -> None:
    assert potential_bits(small()) == 9  # the readout's 64 bits are floats
    assert [fitting(bits) for bits in (8, 9, 32, 33)] == ["45nm-int8", "45nm-int32", "45nm-int32", "45nm-int32"]
    presets = estimates(small())["presets"]
    assert presets["45nm-int8"]["remark"] == "potentials of 9 bits: the 8-bit integer adder priced here is too narrow"
    assert presets["45nm-int32"]["remark"] is presets["45nm-fp32"]["remark"] is None
    assert estimates(small())["potential_bits"] == 9
    assert narrowness(26, "45nm-fp32") is not None and narrowness(25, "45nm-fp32") is None


def test_spikes_a_unit_and_step() -> None:
    assert spike_rate(small()) == pytest.approx((12 + 6) / (3 * (8 + 16)))
    assert spike_rate(small("if", 12)) == pytest.approx((12 + 6) / (12 * (8 + 16)))
    assert LINE == (0.057, 0.064)


def test_the_other_layer_of_a_split_unit_is_none_of_the_ann() -> None:
    split = small()
    split["layers"][1] |= {"macs": 0}
    found = estimate(split)
    assert found["matched"]["hidden"] == found["skipping"]["hidden"] == 0
    assert found["spiking"]["hidden"] == estimate(small())["spiking"]["hidden"]


def test_everything_is_labelled_an_estimate_with_its_source() -> None:
    values = estimates(small())
    assert "estimate" in values["label"] and "2409.08290" in values["line_source"] and values["unit"] == "nJ an image"
    assert all("Horowitz 2014" in preset["source"] for preset in values["presets"].values())
    assert values["presets"]["45nm-fp32"]["with_movement"] == estimate(small(), "45nm-fp32", movement=True)


def test_known_errors() -> None:
    with pytest.raises(ConfigError, match="no energy preset '7nm': choose from 45nm-int8"):
        estimate(small(), "7nm")
    old = {key: value for key, value in small().items() if key != "operations"}
    with pytest.raises(FormatError, match="run `snnconv simulate` again"):
        estimate(old)


def test_the_figure_draws_what_is_estimated(tmp_path: Path) -> None:
    for movement in (False, True):
        file = plot_energy([result()], tmp_path / "energy", "45nm-int32", movement)[2]
        rows = list(csv.DictReader(file.read_text().splitlines()))
        expected = estimate(simulated(), "45nm-int32", movement)
        assert [row["system"] for row in rows] == list(SYSTEMS)
        for row in rows:
            assert float(row["total_nJ"]) == expected[row["system"]]["total"]
            assert (row["line_low"], row["line_high"]) == ("0.057", "0.064")


def test_results_of_an_earlier_release_are_passed_over(tmp_path: Path) -> None:
    old = {key: value for key, value in simulated().items() if key != "operations"}
    with pytest.raises(RunError, match="simulated by an earlier release"):
        plot_energy([result_from("lenet-mnist", "k0B1", [old])], tmp_path / "energy")
    file = plot_energy([result_from("lenet-mnist", "k0B1", [old]), result()], tmp_path / "energy")[2]
    assert {row["configuration"] for row in csv.DictReader(file.read_text().splitlines())} == {"k1B2"}


@pytest.mark.parametrize(("bits", "preset", "taken", "told"), [
    (8, None, "45nm-int8", False), (11, None, "45nm-int32", False), (52, None, "45nm-int32", True),
    (11, "45nm-int8", "45nm-int8", True),
])  # fmt: skip
def test_the_figure_takes_an_adder_that_holds_the_potentials_or_says_so(
    bits: int, preset: str | None, taken: str, told: bool, tmp_path: Path
) -> None:
    simulation = simulated()
    for own in simulation["operations"]["layers"]:
        own["potential_bits"] = bits
    files = plot_energy([result_from("lenet-mnist", "k1B2", [simulation])], tmp_path / "energy", preset)
    rows = list(csv.DictReader(files[2].read_text().splitlines()))
    assert {row["preset"] for row in rows} == {taken}
    assert (b"too narrow" in files[1].read_bytes()) == told
