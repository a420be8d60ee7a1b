"""VGG networks for small images, as sequences of cut units."""

from collections import OrderedDict

from torch import nn

from pipar_rpc.models.norm import Norm


def _conv(in_channels: int, out_channels: int, norm: Norm, pool: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
        norm.layer(out_channels),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


def vgg5(channels: int, image_size: int, num_classes: int, norm: Norm) -> nn.Sequential:
    """VGG5 of the paper's Table II: CONV-3-32-MaxPool, CONV-3-64-MaxPool, CONV-3-64, FC-128, FC-10.

    Args:
        channels: channels of the input images.
        image_size: height and width of the input, at least 4; two poolings divide it by 4.
        num_classes: outputs of the last unit.
        norm: normalisation after each convolution.

    Returns:
        A sequence of Q = 5 units that maps [B, channels, image_size, image_size] to [B, num_classes].
    """
    features = 64 * (image_size // 4) ** 2
    units = OrderedDict(
        conv1=_conv(channels, 32, norm, pool=True),
        conv2=_conv(32, 64, norm, pool=True),
        conv3=_conv(64, 64, norm, pool=False),
        fc1=nn.Sequential(nn.Flatten(), nn.Linear(features, 128), nn.ReLU()),
        fc2=nn.Linear(128, num_classes),
    )
    return nn.Sequential(units)
