"""ResNet and MobileNetV3: torchvision's own networks, flattened into cut units."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import nn

from pipar_rpc.models.norm import Norm

Published = tuple[nn.Sequential, nn.Module]
"""The units, and the network that they were taken out of, whose names its weights are published under."""


def _build(name: str, num_classes: int, norm: Norm) -> Any:
    import torchvision

    # With batch norm, torchvision's own default: MobileNet's has another epsilon and momentum.
    layer = {} if norm is Norm.batch else {"norm_layer": norm.layer}
    return getattr(torchvision.models, name)(num_classes=num_classes, **layer)


def _take(convolution: nn.Conv2d, channels: int) -> nn.Conv2d:
    """The first convolution for images of `channels` channels."""
    if channels == convolution.in_channels:
        return convolution
    own = convolution
    return nn.Conv2d(channels, own.out_channels, own.kernel_size, own.stride, own.padding, bias=False)  # type: ignore[arg-type]


def resnet(name: str) -> Callable[[int, int, int, Norm], Published]:
    """A builder of "resnet18" (Q = 10) or "resnet50" (Q = 18): the stem, each residual block, the classifier.

    ResNet18 has the units of the paper's Table II: CONV-7-64-MaxPool, RES-3-64 x2, RES-3-128 x2, RES-3-256
    x2, RES-3-512, RES-3-512-AvgPool, FC-10.
    """

    def build(channels: int, image_size: int, num_classes: int, norm: Norm) -> Published:
        net = _build(name, num_classes, norm)
        net.conv1 = _take(net.conv1, channels)
        units: OrderedDict[str, nn.Module] = OrderedDict()
        units["conv1"] = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        for layer in ("layer1", "layer2", "layer3", "layer4"):
            for index, block in enumerate(getattr(net, layer)):
                units[f"{layer}_{index}"] = block
        last, block = units.popitem()
        units[last] = nn.Sequential(block, net.avgpool, nn.Flatten())
        units["fc"] = net.fc
        return nn.Sequential(units), net

    return build


def mobilenet(name: str) -> Callable[[int, int, int, Norm], Published]:
    """A builder of "mobilenet_v3_small" (Q = 15) or "mobilenet_v3_large" (Q = 19).

    The units are the stem, each inverted residual block, the last convolution with the average pooling, and
    the two layers of the classifier.
    """

    def build(channels: int, image_size: int, num_classes: int, norm: Norm) -> Published:
        net = _build(name, num_classes, norm)
        net.features[0][0] = _take(net.features[0][0], channels)
        units = OrderedDict((f"features_{index}", block) for index, block in enumerate(net.features))
        last, block = units.popitem()
        units[last] = nn.Sequential(block, net.avgpool, nn.Flatten())
        linear1, activation, dropout, linear2 = net.classifier
        units["classifier1"] = nn.Sequential(linear1, activation)
        units["classifier2"] = nn.Sequential(dropout, linear2)
        return nn.Sequential(units), net

    return build
