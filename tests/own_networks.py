"""Networks as users write them, with our quantizers as activations; a module that ``--model`` can import, too."""

from __future__ import annotations

from collections.abc import Callable

import torch
from samples import PIXELS, random_images
from torch import Tensor, nn
from torch.nn import functional as F

from snnconv.ann.quantizers import KBQuantizer
from snnconv.conversion.convert import convert
from snnconv.snn.network import SpikingNetwork

SHAPE = (3, 16, 16)
IMAGES = random_images(24, SHAPE)


class Functional(nn.Module):
    """F.relu and F.max_pool2d in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3)
        self.conv2 = nn.Conv2d(6, 8, 3)
        self.q1, self.q2, self.q3 = KBQuantizer(1, 2), KBQuantizer(1, 2), KBQuantizer(2, 1)
        self.fc1 = nn.Linear(8 * 2 * 2, 20)
        self.fc2 = nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.q1(F.relu(self.conv1(x))), 2)
        x = F.max_pool2d(self.q2(F.relu(self.conv2(x), inplace=True)), kernel_size=2, stride=2)
        x = x.view(x.size(0), -1)
        x = F.dropout(self.q3(F.relu(self.fc1(x))), training=self.training)
        return self.fc2(x)


class Separable(nn.Sequential):
    """Depthwise, then pointwise; each with batch norm, ReLU6 and a quantizer."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU6(inplace=True),
            KBQuantizer(1, 3),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(inplace=True),
            KBQuantizer(1, 3),
        )


class Mobile(nn.Module):
    """Depthwise separable convolutions and a global average."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), KBQuantizer(1, 3)
        )
        self.features = nn.Sequential(Separable(8, 12, 1), Separable(12, 16, 2), Separable(16, 16, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(self.stem(x)))
        return self.classifier(torch.flatten(x, 1))


class Block(nn.Module):
    """Two convolutions and a shortcut, by a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu, self.quant1, self.quant2 = nn.ReLU(inplace=True), KBQuantizer(1, 2), KBQuantizer(1, 2)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.quant1(self.relu(self.bn1(self.conv1(x))))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.quant2(self.relu(out))


class Residual(nn.Module):
    """A small ResNet with average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.act = KBQuantizer(1, 2)
        self.layer1 = nn.Sequential(Block(8, 8))
        self.layer2 = nn.Sequential(Block(8, 12, 2), Block(12, 12))
        self.avgpool = nn.AvgPool2d(4)
        self.fc = nn.Linear(12 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(F.relu(self.bn1(self.conv1(x))))
        x = self.avgpool(self.layer2(self.layer1(x)))
        return self.fc(x.flatten(start_dim=1))


class Dense(nn.Module):
    """Every layer reads all those before it; the last quantizer has another step, so that wires stay apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act0 = nn.Conv2d(3, 6, 3, padding=1), KBQuantizer(1, 2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * i) for i in range(3))
        self.acts = nn.ModuleList(KBQuantizer(1, 2) for _ in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(6 + 4 * i, 4, 3, padding=1, bias=False) for i in range(3))
        self.outs = nn.ModuleList(KBQuantizer(1 if i < 2 else 2, 1) for i in range(3))
        self.transition, self.act1 = nn.Conv2d(18, 8, 1), KBQuantizer(1, 2)
        self.classifier = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.act0(self.stem(x))]
        for norm, act, conv, out in zip(self.norms, self.acts, self.convs, self.outs, strict=True):
            features.append(out(conv(act(norm(torch.cat(features, 1))))))
        x = F.avg_pool2d(torch.cat(features, dim=1), 2)
        return self.classifier(self.act1(self.transition(x)).mean([2, 3]))


class UNet(nn.Module):
    """Down and up again: transposed convolutions, skips joined by concat."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), KBQuantizer(1, 2))
        self.down2 = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), KBQuantizer(1, 2))
        self.pool = nn.MaxPool2d(2)
        self.up1 = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.up2 = nn.ConvTranspose2d(12, 4, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.act1, self.act2 = KBQuantizer(1, 2), KBQuantizer(1, 2)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down1(x)
        x = self.act1(self.up1(self.down2(self.pool(skip))))
        x = self.act2(self.bn(self.up2(torch.cat([x, skip], dim=1))))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class Perceptron(nn.Module):
    """Linear layers only; clamp as the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1, self.fc2, self.fc3 = nn.Linear(768, 32), nn.Linear(32, 24), nn.Linear(24, 4)
        self.bn = nn.BatchNorm1d(24)
        self.quant1, self.quant2 = KBQuantizer(2, 1), KBQuantizer(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant1(torch.clamp(self.fc1(self.flatten(x)), 0, 1))
        return self.fc3(self.quant2(self.bn(self.fc2(x)).clamp(min=0.0)))


class Sequence(nn.Module):
    """Conv1d over the rows of the image, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(3, 8, 5, stride=2, padding=2)
        self.conv2 = nn.Conv1d(8, 8, 3, dilation=2, groups=2)
        self.bn1, self.bn2 = nn.BatchNorm1d(8), nn.BatchNorm1d(8)
        self.up = nn.ConvTranspose1d(8, 6, 4, stride=2, padding=1)
        self.pool, self.average = nn.MaxPool1d(2), nn.AvgPool1d(3)
        self.acts = nn.ModuleList(KBQuantizer(1, 2) for _ in range(3))
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.acts[0](self.bn1(self.conv1(x.flatten(2)))))
        x = self.acts[1](F.relu(self.bn2(self.conv2(F.pad(x, (2, 1))))))
        x = self.acts[2](self.up(self.average(x)))
        return self.fc(F.adaptive_avg_pool1d(x, 1).squeeze(2))


class Reused(nn.Module):
    """One ReLU and one quantizer for all layers, one convolution applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.relu, self.quant = nn.ReLU(), KBQuantizer(1, 2)
        self.body = nn.Sequential(self.conv, self.bn)
        self.fc = nn.Linear(6 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(self.relu(self.stem(x)))
        for _ in range(2):
            x = self.quant(self.relu(self.body(x)))
        return self.fc(x.reshape(x.shape[0], -1))


class Tutorial(nn.Module):
    """Two convolutions with pools, three dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 3)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 2 * 2, 40), nn.Linear(40, 28), nn.Linear(28, 4)
        self.q = nn.ModuleDict({name: KBQuantizer(2, 1) for name in ("conv1", "conv2", "fc1", "fc2")})

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.q["conv1"](F.relu(self.conv1(x))))
        x = self.pool(self.q["conv2"](F.relu(self.conv2(x))))
        x = torch.flatten(x, 1)
        x = self.q["fc1"](F.relu(self.fc1(x)))
        x = self.q["fc2"](F.relu(self.fc2(x)))
        return self.fc3(x)


class Fire(nn.Module):
    """Squeeze by 1x1, expand by 1x1 and 3x3 side by side."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(inputs, squeeze, 1), nn.BatchNorm2d(squeeze), KBQuantizer(1, 2))
        self.expand1 = nn.Sequential(nn.Conv2d(squeeze, expand, 1), nn.BatchNorm2d(expand), KBQuantizer(1, 2))
        self.expand3 = nn.Sequential(
            nn.Conv2d(squeeze, expand, 3, padding=1), nn.BatchNorm2d(expand), KBQuantizer(1, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        return torch.cat([self.expand1(x), self.expand3(x)], 1)


class Squeeze(nn.Module):
    """A small SqueezeNet: fire modules, "same" padding of its own, max pools that overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.Conv2d(3, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            KBQuantizer(1, 2),
            Fire(8, 4, 6),
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.MaxPool2d(3, stride=2),
            Fire(12, 4, 8),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(16, 10, 1), KBQuantizer(2, 1))
        self.fc = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.classifier(self.features(x))
        return self.fc(x.mean(dim=(2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "functional": Functional,
    "mobile": Mobile,
    "residual": Residual,
    "dense": Dense,
    "unet": UNet,
    "perceptron": Perceptron,
    "sequence": Sequence,
    "reused": Reused,
    "tutorial": Tutorial,
    "squeeze": Squeeze,
}


def awake(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights large enough for every layer to fire, and batch norms settled on random images."""
    draw = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.Linear):
            size = module.weight[0].numel()
            with torch.no_grad():
                module.weight.normal_(0, (3 / size) ** 0.5, generator=draw)
                if module.bias is not None:
                    module.bias.uniform_(-0.1, 0.3, generator=draw)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=draw)
                module.weight[::4] *= -1
                module.bias.uniform_(0.0, 0.8, generator=draw)
    model.train()
    with torch.no_grad():
        for _ in range(4):
            model(torch.rand(32, *SHAPE, generator=draw))
    return model.eval()


def act(k: int = 1, B: int = 2) -> KBQuantizer:
    return KBQuantizer(k, B)


def made(name: str) -> tuple[nn.Module, SpikingNetwork]:
    """One of ``NETWORKS``, trained by nothing, and what it is converted to."""
    model = awake(NETWORKS[name]())
    return model, convert(model, torch.zeros(1, *SHAPE), PIXELS)
