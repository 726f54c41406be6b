"""`snnconv merge` end to end: the proof, the file it writes, and every refusal in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from samples import PIXELS, random_images, settled
from test_branches import sign_pair
from test_cli import sentence, snnconv
from torch import nn

from snnconv import pipeline
from snnconv.ann.branches import merge_branches, two_branch
from snnconv.ann.checkpoints import load_ann, save_ann
from snnconv.ann.merging import MergedLayer, Merging, compare_merged
from snnconv.ann.models.networks import build_network
from snnconv.ann.training import network_for
from snnconv.config import Quantization, change_recipe, load_recipe
from snnconv.data.images import load_images
from snnconv.errors import FormatError
from snnconv.reporting.tables import merging_summary, merging_table, render
from snnconv.runs import ANN, Run, create_run

SHAPE = (2, 9, 9)


def small(bias: bool = True) -> nn.Module:
    """Float inputs for the first pair, biases, a stride, groups; batch norms settled."""
    layers = [
        sign_pair(nn.Conv2d(2, 4, 3, bias=bias)), nn.BatchNorm2d(4), nn.Hardtanh(),
        sign_pair(nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=bias)), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Flatten(), sign_pair(nn.Linear(54, 4)),
    ]  # fmt: skip
    torch.manual_seed(1)
    return settled(nn.Sequential(*layers), torch.rand(20, *SHAPE))


def compared(model: nn.Module, spoil: Any = None, batch_size: int = 7) -> Merging:
    pairs = two_branch(model)
    merged = merge_branches(pairs)
    if spoil is not None:
        with torch.no_grad():
            spoil(merged)
    return compare_merged(pairs, merged, random_images(20, SHAPE), PIXELS, batch_size)


def test_rounding_stays_within_its_bound_and_the_bound_is_tight_enough_to_mean_something() -> None:
    result = compared(small())
    assert result.failures() == []
    assert (result.images, result.predictions_equal) == (20, 20)
    assert [layer.name for layer in result.layers] == ["0", "3", "7"]
    assert [layer.weights for layer in result.layers] == [72, 108, 216]
    for layer in result.layers:
        assert 0 < layer.difference <= layer.bound < 1e-11 * layer.largest_output
        assert 0.3 < layer.zeros / layer.weights < 0.7


def test_the_bound_by_hand() -> None:
    """n = 2, alpha = (1 + 1 + 2 + 2) / 4 = 3/2, inputs up to 1, bias 1: (2 + 3) eps (2 alpha * 2 * 1 + 1)."""
    layer = sign_pair(nn.Conv2d(1, 1, (1, 2)))
    with torch.no_grad():
        layer.parametrizations.weight.original0.fill_(1.0)
        layer.parametrizations.weight.original1.fill_(2.0)
        layer.bias.fill_(1.0)
    images = random_images(3, (1, 1, 2))
    images.pixels[0] = 255
    model = nn.Sequential(layer, nn.Flatten())
    pairs = two_branch(model)
    (entry,) = compare_merged(pairs, merge_branches(pairs), images, PIXELS).layers
    assert entry.largest_input == 1.0 and entry.largest_output == 7.0
    assert entry.bound == pytest.approx(5 * 2.0**-52 * (3 * 2 * 1 + 1), rel=1e-12)


def test_codes_without_bias_merge_without_any_rounding() -> None:
    model = build_network("lenet", (1, 28, 28), 10, Quantization.parse("sttn"))
    images = random_images(10, (1, 28, 28), classes=10)
    settled(model, images.pixels / 255)
    pairs = two_branch(model)
    result = compare_merged(pairs, merge_branches(pairs), images, PIXELS)
    assert [layer.difference for layer in result.layers] == [0.0] * 5 and result.failures() == []
    assert result.predictions_equal == 10


def nudge(merged: nn.Module) -> None:
    weight = merged.get_submodule("3").weight.view(-1)
    weight[weight.nonzero()[0]] *= 1 + 2.0**-23  # one float32 step


def set_nan(merged: nn.Module) -> None:
    merged.get_submodule("3").bias[1] = float("nan")


def shift(merged: nn.Module) -> None:
    merged.get_submodule("3").bias[1] += 1e-6


@pytest.mark.parametrize("spoil", [nudge, shift, set_nan])
@pytest.mark.parametrize("batch_size", [7, 20])
def test_the_smallest_change_of_a_weight_or_bias_is_found_and_its_layer_named(spoil: Any, batch_size: int) -> None:
    result = compared(small(), spoil, batch_size)
    (failure,) = result.failures()
    assert failure.startswith("layer 3: merged and two-branch outputs differ by ")
    assert "float64 rounding explains" in failure


def test_a_layer_that_sees_only_zeros_proves_nothing() -> None:
    model = small()
    with torch.no_grad():
        model[4].weight.zero_()
        model[4].bias.fill_(-1.0)
    (failure,) = compared(model).failures()
    assert failure == "layer 7 was given nothing but zeros, on all of 20 images"


def test_both_networks_are_left_as_they_were() -> None:
    pairs = two_branch(small()).train()
    merged = merge_branches(pairs)
    compare_merged(pairs, merged, random_images(4, SHAPE), PIXELS)
    for network in (pairs, merged):
        assert all(module.training and not module._forward_hooks for module in network.modules())
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_the_table_adds_up_and_is_relative_to_the_largest_output() -> None:
    layers = [
        MergedLayer("conv2", 4_000, 1_000, 1.0, 4.0, 2e-15, 8e-12),
        MergedLayer("conv3", 1_000, 600, 1.0, 2.0, 0.0, 1e-12),
    ]
    result = Merging(layers, 200, 199).to_dict() | {"failures": []}
    lines = [line.split() for line in render(merging_table(result)).splitlines()]
    assert ["conv2", "4,000", "25.0", "5.0e-16", "2.0e-12"] in lines
    assert ["conv3", "1,000", "60.0", "0", "5.0e-13"] in lines
    assert ["total", "5,000", "32.0"] in lines  # 1,600 of 5,000
    assert "agree in 2 layers on 200 images" in merging_summary(result)
    assert "predictions are equal on 199 of 200 images" in merging_summary(result)
    assert merging_summary(result | {"failures": ["one", "two"]}) == "NOT PROVEN: one; two"


# ------------------------------------------------------------------------------------ the command


def make_run(runs_dir: Path, quantization: str, name: str = "pairs", network: str = "lenet") -> Run:
    """A run on the digits with random weights and batch norms settled on them."""
    recipe = change_recipe(
        load_recipe("lenet-digits-k1B2"), {"quantization": quantization, "name": name, "network": network}
    )
    run = create_run(runs_dir, recipe, seed=0)
    model = network_for(recipe)
    settled(model, load_images("digits", "test").take(50).pixels / 255)
    save_ann(run.file(ANN), model, recipe)
    return run


def test_merge_proves_and_writes_a_plain_state_dict(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", "sttn")
    make_run(tmp_path / "runs", "k1B2", "newer-without-pairs")
    result = snnconv("merge", "--images", "30", cwd=tmp_path)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "using run runs/pairs" in result.stderr
    total = next(line.split() for line in result.stdout.splitlines() if line.startswith("total"))
    assert total[1] == "155,392" and 45 < float(total[2]) < 55
    assert "PROVEN: two branches and the layer merged of them agree in 5 layers on 30 images" in result.stdout
    assert "predictions are equal on 30 of 30 images" in result.stdout
    file = run.file("merged.safetensors")
    assert f"wrote runs/pairs/merged.safetensors ({file.stat().st_size:,} bytes)" in result.stdout

    with safe_open(file, "pt") as source:
        header = json.loads(source.metadata()["snnconv"])
    assert (header["format"], header["version"]) == ("snnconv-merged", 1)
    assert header["recipe"]["quantization"] == "sttn" and "state_dict" in header["contents"]
    tensors = load_file(file)
    trained = network_for(run.recipe)
    load_ann(run.file(ANN), trained)
    plain = build_network("lenet", (1, 28, 28), 10, Quantization.parse("fp32"))  # the same layers, nothing quantized
    plain.load_state_dict(tensors, strict=True)
    for number in range(1, 7):
        theirs = trained.get_submodule(f"conv{number}.conv").weight
        assert torch.equal(tensors[f"conv{number}.conv.weight"], theirs)
    scale = tensors["conv2.conv.weight"].flatten(1).abs().amax(1).reshape(-1, 1, 1, 1)
    assert set((tensors["conv2.conv.weight"] / scale).unique().tolist()) == {-1.0, 0.0, 1.0}
    with pytest.raises(FormatError, match="not a network trained by"):
        load_ann(file, trained)


def test_merge_prints_one_object(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", "sttn")
    arguments = ("merge", "--run", "pairs", "--images", "20", "--json", "--quiet")
    values = json.loads(snnconv(*arguments, cwd=tmp_path).stdout)
    assert (values["run"], values["dataset"], values["images"], values["predictions_equal"]) == (
        "pairs",
        "digits",
        20,
        20,
    )
    assert [layer["name"] for layer in values["layers"]] == [f"conv{number}.conv" for number in range(2, 7)]
    assert values["failures"] == [] and values["bytes"] == run.file("merged.safetensors").stat().st_size
    assert values == json.loads(snnconv(*arguments, "--batch-size", "7", cwd=tmp_path).stdout)


def test_a_wrong_merge_exits_with_one_names_the_layer_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "runs", "sttn")

    def wrong(model: nn.Module) -> nn.Module:
        merged = merge_branches(model)
        with torch.no_grad():
            weight = merged.get_submodule("conv4.conv").weight.view(-1)
            weight[weight.nonzero()[5]] *= 1 + 2.0**-23
        return merged

    monkeypatch.setattr(pipeline, "merge_branches", wrong)
    result = snnconv("merge", "--images", "10", "--quiet", cwd=tmp_path)
    assert "NOT PROVEN: layer conv4.conv: merged and two-branch outputs differ by" in result.stdout
    assert "layer conv4.conv" in sentence(result)
    assert "(and" not in sentence(result)  # every layer is given the two branches' inputs
    assert not run.has("merged.safetensors")
    as_json = snnconv("merge", "--images", "10", "--quiet", "--json", cwd=tmp_path)
    assert sentence(as_json) and "file" not in json.loads(as_json.stdout)


@pytest.mark.parametrize("quantization", ["k1B2", "fp32", "relu", "twta", "bwba"])
def test_a_run_without_pairs_is_refused_with_what_is_accepted(tmp_path: Path, quantization: str) -> None:
    make_run(tmp_path / "runs", quantization, "mine")
    message = sentence(snnconv("merge", "--run", "mine", cwd=tmp_path))
    assert f"run mine (quantization {quantization}) cannot be merged" in message
    assert "pairs of binary weights, of quantization sttn or sttn-k<bits>B<bound>" in message
    assert "no run in runs can be merged" in sentence(snnconv("merge", cwd=tmp_path))


def test_no_run_at_all_is_a_sentence_and_the_shipped_one_is_not_copied(tmp_path: Path) -> None:
    message = sentence(snnconv("merge", cwd=tmp_path))
    assert "no run in runs can be merged" in message and "snnconv train resnet18sttn-small-cifar10-sttn" in message
    assert not list(tmp_path.iterdir())


def test_wrong_uses_are_sentences(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", "sttn")
    assert "500 test images" in sentence(snnconv("merge", "--images", "501", cwd=tmp_path))
    assert "0 is not in the range" in sentence(snnconv("merge", "--images", "0", cwd=tmp_path), 2)
    assert "no run called nobody" in sentence(snnconv("merge", "--run", "nobody", cwd=tmp_path))
    run.file(ANN).write_bytes(b"GIF89a")
    assert "ann.safetensors" in sentence(snnconv("merge", cwd=tmp_path))
    run.file(ANN).unlink()
    assert "no ann.safetensors" in sentence(snnconv("merge", "--run", "pairs", cwd=tmp_path))


def test_training_on_forgets_the_merged_network(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", "sttn")
    assert snnconv("merge", "--images", "5", "--quiet", cwd=tmp_path).exit_code == 0
    run.forget_results()
    assert not run.has("merged.safetensors") and run.has(ANN)


def test_which_networks_have_pairs() -> None:
    """By their recipe alone, as their layers say it."""
    from snnconv.ann.models.networks import NETWORKS, has_sign_pairs
    from snnconv.ann.weights import SignPairWeight

    for name in ("lenet", "resnet20tnn", "resnet18sttn", "alexnet"):
        for kind in ("fp32", "relu", "k1B2", "relu-t2", "twta", "sttn", "sttn-k1B4"):
            quantization = Quantization.parse(kind)
            if quantization.quantizes_stream and name != "resnet18sttn":
                continue
            with torch.device("meta"):
                model = NETWORKS[name]((3, 224, 224) if "lenet" not in name else (1, 28, 28), 10, quantization)
            pairs = any(isinstance(module, SignPairWeight) for module in model.modules())
            assert has_sign_pairs(name, quantization) == pairs, (name, kind)


def test_the_published_residual_network_merges() -> None:
    model = build_network("resnet18sttn-small", (3, 32, 32), 10, Quantization.parse("sttn"))
    images = random_images(2, (3, 32, 32), classes=10)
    settled(model, images.pixels / 255)
    pairs = two_branch(model)
    result = compare_merged(pairs, merge_branches(pairs), images, PIXELS)
    assert len(result.layers) == 16 and result.failures() == [] and result.predictions_equal == 2
