"""Conversion: walk the traced graph, apply one rule a node, and hand back the spiking network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from snnconv.config import Preprocessing
from snnconv.conversion.builder import Builder
from snnconv.conversion.graph import is_plain, place, trace
from snnconv.conversion.refusals import refuse_float_activations, refuse_stream_around_quantizer
from snnconv.conversion.rules import module_for, remedy_for, rule_for
from snnconv.conversion.values import Analog, Counts, Sum, Value, as_sum, lifted
from snnconv.errors import ConversionError
from snnconv.snn.layers import Stage
from snnconv.snn.network import Header, SpikingNetwork

ACCEPTED = (
    "accepted are convolutions and dense layers, batch norms, pools, sums, concatenations, changes of shape, ReLU, "
    "clips and PReLU in front of a quantizer, and modules with a grid such as KBQuantizer (docs/own_models.md lists "
    "them)"
)


def convert(
    model: nn.Module,
    example_input: Tensor,
    preprocessing: Preprocessing | None = None,
    about: Mapping[str, Any] | None = None,
) -> SpikingNetwork:
    """Convert a quantized network, layer by layer, into a spiking one.

    Every activation quantizer becomes a layer of integrate-and-fire units: batch norm, weight scale,
    bias and incoming step are folded into a scale and an offset a channel, from which integer
    thresholds follow. The float sub-graph up to the first quantizer becomes the encoder, what follows
    the last one the readout. The model is left as it was.

    Args:
        model: A torch module with quantized weights and activations.
        example_input: (N, C, H, W) images as the model takes them; only the shape matters.
        preprocessing: Stored with the network, so that it takes pixels later.
        about: Plain values stored with the network.

    Raises:
        ConversionError: a network whose activations are float, or a layer, function or value without an exact
            spiking counterpart, by its path.
    """
    traced = trace(model, example_input)
    refuse_float_activations(traced)
    refuse_stream_around_quantizer(traced)
    builder = Builder(Header(tuple(example_input.shape[1:]), preprocessing, dict(about or {})))
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            builder.values[node] = _input(node)
        elif node.op == "output":
            network = _close(builder, node)
        else:
            builder.values[node] = _apply(builder, traced, node)
    network.check_shapes()
    return network


def _apply(builder: Builder, traced: fx.GraphModule, node: fx.Node) -> Value:
    rule, kind = rule_for(traced, node)
    if rule is None:
        if is_plain(node):
            return None
        raise ConversionError(f"layer {place(node)} ({kind}) cannot be converted: {remedy_for(kind) or ACCEPTED}")
    try:
        return rule(builder, node, module_for(traced, node), builder.value(node.args[0] if node.args else None))
    except ConversionError as error:
        raise ConversionError(f"layer {place(node)} ({kind}): {error}") from error


def _input(node: fx.Node) -> Analog:
    """The analog input; a sequence as an image of one row."""
    shape = tuple(node.meta["shape"][1:])
    return Analog() if lifted(shape) == shape else Analog((Stage(shape=lifted(shape)),))


def _close(builder: Builder, node: fx.Node) -> SpikingNetwork:
    source = node.args[0]
    assert isinstance(source, fx.Node)  # as ``trace`` has seen to
    value = builder.value(source)
    if isinstance(value, Counts):
        value = as_sum(value, source.name)
    if not isinstance(value, Sum) or len(source.meta["shape"]) != 2:
        raise ConversionError(
            "the network gives out no (batch, classes) logits behind an activation quantizer: end it with a flatten "
            "and a dense layer"
        )
    if value.chain:
        raise ConversionError("the readout ends in an activation: end the network with its last linear layer")
    return builder.add_readout(source, value)
