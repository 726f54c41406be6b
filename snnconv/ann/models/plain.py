"""Networks without shortcuts, each as its authors built it. "/2" is a stride, "/g 4" are four strided channel groups.

"C" is a convolution with its batch norm and activation, padded so that stride 1 keeps the sides unless it says
"unpadded". Every stride is a learned convolution's; only AlexNet has pools.
"""

from __future__ import annotations

from torch import nn

from snnconv.ann.models.blocks import TNN
from snnconv.ann.models.stack import Conv, Dense, Line, MaxPool, conv_stack
from snnconv.config import Quantization

Image = tuple[int, int, int]


def lenet(image: Image, classes: int, quantization: Quantization) -> nn.Module:
    """k/B LeNet: 16C5 | 16C5, 16C2/2 | 32C5, 32C2/2 | 256C4 | dense; made for 28x28 images.

    "/2" is a learned convolution of stride 2, there is no pooling.

    Ref: Zou et al. 2021, Front. Neurosci. 15:694170.
    """
    convs = [
        Conv(16, 5),
        Conv(16, 5, padding="valid"),
        Conv(16, 2, stride=2),
        Conv(32, 5, padding="valid"),
        Conv(32, 2, stride=2),
        Conv(256, 4, padding="valid"),
    ]
    return conv_stack(convs, image, classes, quantization)


def lenet20_50(image: Image, classes: int, quantization: Quantization) -> nn.Module:
    """LeNet of the negative-spike nets: 20C5 | 20C2/2 | 50C5 | 50C2/2 | 500C4 | dense, all unpadded; for 28x28 images.

    The source keeps all weights float and clips no activation: ``k1B63-float`` is its k = 1.

    Ref: Zou et al. 2023, Adv. Intell. Syst., where it is written 20C5-P2-50C5-P2-500; its pools are learned
    convolutions of stride 2, its dense layer a convolution.
    """
    convs = [
        Conv(20, 5, padding="valid"),
        Conv(20, 2, stride=2),
        Conv(50, 5, padding="valid"),
        Conv(50, 2, stride=2),
        Conv(500, 4, padding="valid"),
    ]
    return conv_stack(convs, image, classes, quantization)


def lenet5x5(image: Image, classes: int, quantization: Quantization) -> nn.Module:
    """TWTA LeNet: 32C5 | 32C2/2 | 64C5 | 64C2/2 | dense 512 | dense, BN; for 28x28 images.

    Ref: repository edwardzcl/TWTA, 2021.
    """
    lines: list[Line] = [
        Conv(32, 5, padding="valid"),
        Conv(32, 2, 2),
        Conv(64, 5, padding="valid"),
        Conv(64, 2, 2),
        Dense(512),
    ]
    return conv_stack(lines, image, classes, quantization, norm_logits=True)


def lenet4x4(image: Image, classes: int, quantization: Quantization) -> nn.Module:
    """TWTA LeNet: 32C4 | 32C2/2 | 64C4 | 64C2/2 | 64C4 unpadded | dense 512 | dense, BN; for 28x28 images.

    Ref: repository edwardzcl/TWTA, 2021.
    """
    lines: list[Line] = [
        Conv(32, 4),
        Conv(32, 2, 2),
        Conv(64, 4),
        Conv(64, 2, 2),
        Conv(64, 4, padding="valid"),
        Dense(512),
    ]
    return conv_stack(lines, image, classes, quantization, norm_logits=True)


def lenet2x2(image: Image, classes: int, quantization: Quantization) -> nn.Module:
    """TWTA LeNet of 2x2 kernels: 64C2, 64C2/2 twice, 64C2 unpadded, 64C2/2, 64C2 unpadded | dense 512 | dense, BN.

    For 28x28 images.

    Ref: repository edwardzcl/TWTA, 2021.
    """
    lines: list[Line] = [Conv(64, 2), Conv(64, 2, 2), Conv(64, 2), Conv(64, 2, 2)]
    lines += [Conv(64, 2, padding="valid"), Conv(64, 2, 2), Conv(64, 2, padding="valid"), Dense(512)]
    return conv_stack(lines, image, classes, quantization, norm_logits=True)


def vgg(image: Image, classes: int, quantization: Quantization) -> nn.Module:
    """VGG of the k/B nets and of TWTA (VGG-13, 3x3); for 24x24 images.

    64C3 x3, 64C2/2 | 128C3 x2, 128C2/2 | 256C3 x2, 256C2/2 | 512C3, 512C3 unpadded | dense. "/2" is a learned
    convolution of stride 2, there is no pooling.

    Ref: Zou et al. 2021, Front. Neurosci. 15:694170.
    """
    convs = [Conv(64, 3)]
    for channels in (64, 128, 256):
        convs += [Conv(channels, 3), Conv(channels, 3), Conv(channels, 2, stride=2)]
    convs += [Conv(512, 3), Conv(512, 3, padding="valid")]
    return conv_stack(convs, image, classes, quantization)


def vgg13_4x4(image: Image, classes: int, quantization: Quantization) -> nn.Module:
    """TWTA VGG-13 of 4x4 kernels; for 24x24 images.

    64C3, 64C4 x2, 64C2/2 | 128C4 x2, 128C2/2 | 256C4 x2, 256C4/2 unpadded | 512C2 unpadded | 512C1 | dense.

    Ref: repository edwardzcl/TWTA, 2021.
    """
    convs = [Conv(64, 3), Conv(64, 4), Conv(64, 4), Conv(64, 2, 2), Conv(128, 4), Conv(128, 4), Conv(128, 2, 2)]
    convs += [Conv(256, 4), Conv(256, 4), Conv(256, 4, 2, "valid"), Conv(512, 2, padding="valid"), Conv(512, 1)]
    return conv_stack(convs, image, classes, quantization)


def groupv2_3x3(image: Image, classes: int, quantization: Quantization) -> nn.Module:
    """Group_V2 of 3x3 kernels: every grouped neuron has at most 256 inputs; for 24x24 images.

    32C3 | 64C3 | 256C4/2 /g 4 | 512C3 /g 16 | 512C2/2 /g 8 | 2048C3 unpadded /g 32 | 1024C1 /g 8 | 1024C2/2 /g 16 |
    1024C2 unpadded /g 16 | 512C1 | dense, BN.

    Ref: repository edwardzcl/TWTA, 2021.
    """
    convs = [Conv(32, 3), Conv(64, 3), Conv(256, 4, 2, groups=4), Conv(512, 3, groups=16), Conv(512, 2, 2, groups=8)]
    convs += [Conv(2048, 3, padding="valid", groups=32), Conv(1024, 1, groups=8), Conv(1024, 2, 2, groups=16)]
    convs += [Conv(1024, 2, padding="valid", groups=16), Conv(512, 1)]
    return conv_stack(convs, image, classes, quantization, norm_logits=True)


def groupv2_4x4(image: Image, classes: int, quantization: Quantization) -> nn.Module:
    """Group_V2 of 4x4 kernels; for 24x24 images.

    32C3 | 64C4 | 256C4/2 /g 4 | 512C4 /g 16 | 512C2/2 /g 8 | 2048C4 /g 32 | 1024C1 /g 8 | 1024C4/2 unpadded /g 16 |
    1024C2 unpadded /g 16 | 512C1 | dense, BN.

    Ref: repository edwardzcl/TWTA, 2021.
    """
    convs = [Conv(32, 3), Conv(64, 4), Conv(256, 4, 2, groups=4), Conv(512, 4, groups=16), Conv(512, 2, 2, groups=8)]
    convs += [Conv(2048, 4, groups=32), Conv(1024, 1, groups=8), Conv(1024, 4, 2, "valid", groups=16)]
    convs += [Conv(1024, 2, padding="valid", groups=16), Conv(512, 1)]
    return conv_stack(convs, image, classes, quantization, norm_logits=True)


def model2(image: Image, classes: int, quantization: Quantization) -> nn.Module:
    """Model-2 of TWBA and BWBA, with an encoder of two convolutions; for 24x24 images.

    32C3 with ReLU, 64C3 | 256C4/2 /g 2 | 512C3 /g 8 | 512C2/2 /g 4 | 2048C3 unpadded /g 16 | 1024C1 /g 4 |
    1024C2/2 /g 8 | 1024C2 unpadded /g 8 | 512C1 | dense, BN.

    Ref: Zou et al. 2019, ASICON.
    """
    convs = [Conv(32, 3), Conv(64, 3), Conv(256, 4, 2, groups=2), Conv(512, 3, groups=8), Conv(512, 2, 2, groups=4)]
    convs += [Conv(2048, 3, padding="valid", groups=16), Conv(1024, 1, groups=4), Conv(1024, 2, 2, groups=8)]
    convs += [Conv(1024, 2, padding="valid", groups=8), Conv(512, 1)]
    return conv_stack(convs, image, classes, quantization, encoder=2, norm_logits=True)


def alexnet(image: Image, classes: int, quantization: Quantization) -> nn.Module:
    """AlexNet with batch norm and no groups: 96C11/4, 256C5, 384C3 x2, 256C3, dense 4096 x2; for 224x224 images.

    Ref: Krizhevsky et al. 2012; as in He, Gong, Fan 2019, WACV, arXiv:1807.07948.
    """
    lines: list[Line] = [Conv(96, 11, 4, 2), MaxPool(3, 2), Conv(256, 5), MaxPool(3, 2)]
    lines += [Conv(384, 3), Conv(384, 3), Conv(256, 3), MaxPool(3, 2), Dense(4096), Dense(4096)]
    return conv_stack(lines, image, classes, quantization, TNN)
