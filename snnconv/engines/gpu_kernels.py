"""The triton engine's kernels; what calls them stands in ``gpu_calls``.

Counts are channels last in memory: the value of image n, place p = row * width + column and channel c lies at
(n * places + p) * channels + c. A pixel is a pair (n, p). Whether these kernels are compiled for a GPU or interpreted
on the CPU is decided when this module is imported, by TRITON_INTERPRET=1 in the environment.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(
    do_not_specialize=[
        *("pixels", "places", "columns", "height", "width", "kernel_width", "taps", "blocks"),
        *("down", "across", "dilation_y", "dilation_x", "top", "left", "levels", "negative"),
    ]
)
def convolve(
    counts: tl.tensor,
    codes: tl.tensor,
    order: tl.tensor,
    thresholds: tl.tensor,
    sent: tl.tensor,
    pixels: tl.tensor,
    places: tl.tensor,
    columns: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    inputs: tl.tensor,
    outputs: tl.tensor,
    kernel_width: tl.tensor,
    taps: tl.tensor,
    blocks: tl.tensor,
    down: tl.tensor,
    across: tl.tensor,
    dilation_y: tl.tensor,
    dilation_x: tl.tensor,
    top: tl.tensor,
    left: tl.tensor,
    levels: tl.tensor,
    negative: tl.tensor,
    ORDERED: tl.constexpr,
    FIRES: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
) -> None:
    """Potentials of a block of outgoing pixels and channels of one group, and the counts they fire.

        U = sum over taps and inputs of code * count ,    sent = -negative + #{ i : U >= thresholds[i] }

    It is a matrix product whose left side is gathered while it runs: in each step one tap of the kernel and
    BLOCK_INPUTS channels, int8 times int8, summed in int32.

    Args:
        counts: int8, (images, height * width, channels).
        codes: int8, (groups, outputs, taps, inputs), outputs and inputs filled up with zeros to whole blocks.
        order: int32, (channels,), which channel stands at each place; read where ORDERED.
        thresholds: int32, (levels, groups, outputs), filled up likewise; read where FIRES.
        sent: Counts, int8, where FIRES, else potentials, int32: (pixels, groups * outputs).
        pixels: Outgoing pixels.
        places: Outgoing pixels of an image.
        columns: Outgoing pixels of a row.
        height: Rows of the incoming counts.
        width: Their columns.
        channels: Their channels.
        inputs: Their channels a group.
        outputs: Outgoing channels a group.
        kernel_width: Columns of the kernel.
        taps: Its positions.
        blocks: Blocks of inputs a tap.
        down: Vertical stride.
        across: Horizontal stride.
        dilation_y: Vertical dilation.
        dilation_x: Horizontal dilation.
        top: Rows of padding above.
        left: Columns of padding to the left.
        levels: Threshold neurons a unit.
        negative: Codes below zero.
        ORDERED: Whether the channels are read in another order.
        FIRES: Whether counts are sent, not potentials.
        BLOCK_PIXELS: Pixels of a block.
        BLOCK_OUTPUTS: Outgoing channels of a block.
        BLOCK_INPUTS: Incoming channels of a step.
    """
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    output = tl.program_id(1) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    group = tl.program_id(2)
    filled = tl.num_programs(1) * BLOCK_OUTPUTS
    place = pixel % places
    first_row = place // columns * down - top
    first_column = place % columns * across - left
    image = counts + (pixel // places).to(tl.int64) * (height * width * channels)
    code = codes + (group * filled + output) * (taps * blocks * BLOCK_INPUTS)
    lane = tl.arange(0, BLOCK_INPUTS)
    potential = tl.zeros((BLOCK_PIXELS, BLOCK_OUTPUTS), tl.int32)
    for step in range(taps * blocks):
        tap = step // blocks
        row = first_row + tap // kernel_width * dilation_y
        column = first_column + tap % kernel_width * dilation_x
        inside = (pixel < pixels) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        within = step % blocks * BLOCK_INPUTS + lane
        channel = group * inputs + within
        if ORDERED:
            channel = tl.load(order + channel, mask=within < inputs, other=0)
        seen = tl.load(
            (image + (row * width + column) * channels)[:, None] + channel[None, :],
            mask=inside[:, None] & (within < inputs)[None, :],
            other=0,
        )
        weighted = tl.load(code[None, :] + (step * BLOCK_INPUTS + lane)[:, None])
        potential = tl.dot(seen, weighted, potential, out_dtype=tl.int32)
    target = sent + pixel.to(tl.int64)[:, None] * (tl.num_programs(2) * outputs) + (group * outputs + output)[None, :]
    there = (pixel < pixels)[:, None] & (output < outputs)[None, :]
    if FIRES:
        count = tl.zeros((BLOCK_PIXELS, BLOCK_OUTPUTS), tl.int32) - negative
        for level in range(levels):
            threshold = tl.load(thresholds + (level * tl.num_programs(2) + group) * filled + output)
            count += (potential >= threshold[None, :]).to(tl.int32)
        tl.store(target, count.to(tl.int8), mask=there)
    else:
        tl.store(target, potential, mask=there)


@triton.jit(do_not_specialize=["pixels", "levels", "negative"])
def combine(
    parts: tl.tuple,
    multipliers: tl.tensor,
    constant: tl.tensor,
    thresholds: tl.tensor,
    sent: tl.tensor,
    pixels: tl.tensor,
    outputs: tl.tensor,
    levels: tl.tensor,
    negative: tl.tensor,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
) -> None:
    """Counts of units with several branches, in 64-bit integers.

        Z = sum_b M_b * U_b + C ,    sent = -negative + #{ i : Z >= thresholds[i] }

    Args:
        parts: U, one tensor of integers a branch, (pixels, outputs).
        multipliers: M, int64, (branches, outputs).
        constant: C, int64, (outputs,).
        thresholds: int64, (levels, outputs).
        sent: Counts, int8, (pixels, outputs).
        pixels: Pixels.
        outputs: Channels.
        levels: Threshold neurons a unit.
        negative: Codes below zero.
        BLOCK_PIXELS: Pixels of a block.
        BLOCK_OUTPUTS: Channels of a block.
    """
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    output = tl.program_id(1) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    unit = pixel.to(tl.int64)[:, None] * outputs + output[None, :]
    there = (pixel < pixels)[:, None] & (output < outputs)[None, :]
    total = tl.zeros((BLOCK_PIXELS, BLOCK_OUTPUTS), tl.int64)
    total += tl.load(constant + output, mask=output < outputs, other=0)[None, :]
    for branch in tl.static_range(len(parts)):
        factor = tl.load(multipliers + branch * outputs + output, mask=output < outputs, other=0)
        total += factor[None, :] * tl.load(parts[branch] + unit, mask=there, other=0).to(tl.int64)
    count = tl.zeros((BLOCK_PIXELS, BLOCK_OUTPUTS), tl.int32) - negative
    for level in range(levels):
        threshold = tl.load(thresholds + level * outputs + output, mask=output < outputs, other=0)
        count += (total >= threshold[None, :]).to(tl.int32)
    tl.store(sent + unit, count.to(tl.int8), mask=there)


@triton.jit
def splitmix64(counter: tl.tensor, key: tl.tensor) -> tl.tensor:
    """Random 64-bit words, uint64, of SplitMix64 at position ``counter``; as ``noise.draw``.

    Ref: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    z = counter.to(tl.uint64) * 0x9E3779B97F4A7C15 + key.to(tl.uint64)
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit(do_not_specialize=["pixels", "places", "positive", "key", "bound"])
def delete(
    counts: tl.tensor,
    images: tl.tensor,
    kept: tl.tensor,
    pixels: tl.tensor,
    places: tl.tensor,
    channels: tl.tensor,
    positive: tl.tensor,
    key: tl.tensor,
    bound: tl.tensor,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
) -> None:
    """Counts after each spike was lost with probability bound / 2^32, by the words of ``noise.delete_spikes``.

    Args:
        counts: Integers of any type, (pixels, channels).
        images: int64, the number of each image.
        kept: What is left, of the type of the counts.
        pixels: Pixels.
        places: Pixels of an image.
        channels: Channels.
        positive: Codes above zero: threshold neurons of the negative side are numbered behind them.
        key: Stream of draws.
        bound: A spike is kept where its draw of 32 bits is not below.
        BLOCK_PIXELS: Pixels of a block.
        BLOCK_CHANNELS: Channels of a block.
    """
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    there = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    offset = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    fired = tl.load(counts + offset, mask=there, other=0).to(tl.int32)
    size = tl.abs(fired)
    image = tl.load(images + pixel // places, mask=pixel < pixels, other=0)
    unit = channel[None, :] * places + (pixel % places)[:, None]
    position = (image[:, None] * (places * channels) + unit) << 8
    side = tl.where(fired < 0, positive, 0)
    left = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.int32)
    for level in range(tl.max(size)):
        neuron = side + level
        word = splitmix64(position + neuron // 2, key)
        uniform = tl.where(neuron % 2 == 0, word & 0xFFFFFFFF, word >> 32)
        left += ((size > level) & (uniform >= bound.to(tl.uint64))).to(tl.int32)
    tl.store(kept + offset, tl.where(fired < 0, -left, left).to(kept.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["images", "part"])
def tally(
    counts: tl.tensor,
    totals: tl.tensor,
    images: tl.tensor,
    units: tl.tensor,
    part: tl.tensor,
    BLOCK_UNITS: tl.constexpr,
) -> None:
    """Over a part of the images, add up |count|, the number of counts other than 0, and the counts above 0.

    Args:
        counts: Integers of any type, (images, units).
        totals: int32, (3, units); sums of several parts meet here.
        images: Images.
        units: Units of an image.
        part: Images of a part.
        BLOCK_UNITS: Units of a block.
    """
    unit = tl.program_id(0) * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS)
    first = tl.program_id(1) * part
    row = counts + first.to(tl.int64) * units + unit
    spikes = tl.zeros((BLOCK_UNITS,), tl.int32)
    events = tl.zeros((BLOCK_UNITS,), tl.int32)
    positive = tl.zeros((BLOCK_UNITS,), tl.int32)
    for _ in range(first, tl.minimum(first + part, images)):
        count = tl.load(row, mask=unit < units, other=0).to(tl.int32)
        spikes += tl.abs(count)
        events += (count != 0).to(tl.int32)
        positive += tl.maximum(count, 0)
        row += units
    tl.atomic_add(totals + unit, spikes, mask=unit < units)
    tl.atomic_add(totals + units + unit, events, mask=unit < units)
    tl.atomic_add(totals + 2 * units + unit, positive, mask=unit < units)


INTERPRETED = not isinstance(convolve, triton.JITFunction)
"""Whether these kernels run in Triton's interpreter."""
