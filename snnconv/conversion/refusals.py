"""What a network's graph says before any rule runs: whether counts can travel between its units at all.

Both refusals explain at once what the rules, node by node, would trip over somewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from torch import fx

from snnconv.conversion.activations import hardtanh, prelu, quantize, relu
from snnconv.conversion.graph import place
from snnconv.conversion.joining import add
from snnconv.conversion.rules import AFFINE, Rule, rule_for
from snnconv.conversion.weighted import batch_norm
from snnconv.errors import ConversionError

FLOAT_ACTIVATIONS = (
    *("relu", "relu6", "hardtanh", "prelu", "leakyrelu", "celu", "elu", "selu", "gelu", "silu", "mish"),
    *("hardsigmoid", "hardswish", "sigmoid", "softplus", "tanh"),
)
"""torch's activations, modules and functions alike, in small letters without underscores."""
NAMED = 2
"""So many float activations are named; more are only numbered."""


def refuse_float_activations(traced: fx.GraphModule) -> None:
    """Refuse a network without any activation quantizer.

    Raises:
        ConversionError: there is none; it names the float activations in its place.
    """
    found = []
    for node in traced.graph.nodes:
        rule, kind = rule_for(traced, node)
        if rule is quantize:
            return
        if kind.lower().replace("_", "") in FLOAT_ACTIVATIONS:
            found.append(f"{kind} at {place(node)}")
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    seen = f"its activations are float ({', '.join(found[:NAMED])}{more})" if found else "it has no activations at all"
    raise ConversionError(
        f"the network has no activation quantizer: {seen}, and a float is no count of spikes; calibrate codes "
        "for it (`snnconv quantize`, snnconv.quantize in Python), train its twin with quantized activations "
        "(quantization k1B2, or `snnconv train RECIPE --k 1 --B 2`), or put a KBQuantizer in each one's place in a "
        "model of your own"
    )


class _Kind(IntEnum):
    """What a value is, in rising distance from counts."""

    COUNTS = 0
    AFFINE = 1
    """Unquantized, but a sum of linear maps of counts: whatever reads it can compute it anew from these."""
    FLOAT = 2
    """Analog, or behind an activation without a quantizer: nothing but a quantizer can end it."""


Nodes = frozenset[fx.Node]


def refuse_stream_around_quantizer(traced: fx.GraphModule) -> None:
    """Refuse a stream of unquantized values that a shortcut carries around a quantizer.

    The stream forks: one way leads through a quantizer, the other reaches a sum without one, and what arrives
    there is no sum of linear maps of counts. Where it is one, as in a network whose stream has no activations,
    the sum is computed from the counts of all units before it and nothing is refused.

    Raises:
        ConversionError: there is such a sum; it names the fork, the quantizer and the sum.
    """
    kinds: dict[fx.Node, _Kind] = {}
    before: dict[fx.Node, Nodes] = {}  # each value, and all from which it comes
    stream: dict[fx.Node, Nodes] = {}  # likewise, but without passing a quantizer
    ended: dict[fx.Node, Nodes] = {}  # the stream that each quantizer ends
    for node in traced.graph.nodes:
        rule, _ = rule_for(traced, node)
        if node.op != "placeholder" and rule is None:
            return  # the output; or a layer that is refused by its name
        sources = [source for source in node.all_input_nodes if source.meta["shape"] is not None]
        kinds[node] = _kind(rule, max((kinds[source] for source in sources), default=_Kind.FLOAT))
        before[node] = frozenset({node}).union(*(before[source] for source in sources))
        stream[node] = frozenset({node}).union(*(stream[source] for source in sources))
        if rule is quantize:
            ended[node], stream[node] = stream[sources[0]], frozenset()
        if rule is add:
            around: Nodes = frozenset().union(*(stream[source] for source in sources if kinds[source] == _Kind.FLOAT))
            passed = {quantizer: way for quantizer, way in ended.items() if quantizer in before[node]}
            _refuse_fork(node, around, passed)


def _refuse_fork(total: fx.Node, around: Nodes, passed: Mapping[fx.Node, Nodes]) -> None:
    """Refuse a sum where a value that comes ``around`` leads through a quantizer it has ``passed``, too.

    The last such value is where the stream forks.
    """
    for fork in reversed(total.graph.nodes):
        quantizer = next((quantizer for quantizer, way in passed.items() if fork in way), None)
        if fork in around and quantizer is not None:
            raise ConversionError(
                f"the stream forks at {place(fork)}: one way leads through quantizer {place(quantizer)}, the other "
                f"carries unquantized values around it to the sum {place(total)}, and a spiking network sends counts "
                "only; quantize the stream in front of the fork, so after every sum, with a module such as "
                "KBQuantizer (STTN: train it with the quantization sttn-k1B4)"
            )


def _kind(rule: Rule | None, source: _Kind) -> _Kind:
    """Kind of what a rule makes of values of this kind; where it depends on the values, the nearest to counts."""
    if rule is quantize:
        return _Kind.COUNTS
    if rule in (add, batch_norm):
        return max(source, _Kind.AFFINE)
    if rule in AFFINE:
        return _Kind.AFFINE if source == _Kind.COUNTS else _Kind.FLOAT
    if rule is prelu or (rule in (relu, hardtanh) and source == _Kind.AFFINE):
        return _Kind.FLOAT
    return source
