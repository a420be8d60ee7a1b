"""VGG networks for small images, as sequences of cut units."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from pipar_rpc.base.errors import ConfigError
from pipar_rpc.models.norm import Norm


def _conv(in_channels: int, out_channels: int, norm: Norm, pool: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
        norm.layer(out_channels),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


def _features(
    channels: int, norm: Norm, blocks: Sequence[Sequence[int]], last_pool: bool = True
) -> OrderedDict[str, nn.Module]:
    """Convolutions, a unit each, in blocks of the given widths; a pooling after a block halves the image."""
    units: OrderedDict[str, nn.Module] = OrderedDict()
    for number, block in enumerate(blocks, start=1):
        for index, width in enumerate(block, start=1):
            pool = index == len(block) and (last_pool or number < len(blocks))
            units[f"conv{len(units) + 1}"] = _conv(channels, width, norm, pool)
            channels = width
    return units


def _pooled(image_size: int, times: int, name: str) -> int:
    """Height and width after `times` poolings."""
    factor: int = 2**times
    if image_size < factor:
        raise ConfigError("data.image_size", image_size, f"at least {factor} for {name}")
    return image_size // factor


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
    units = _features(channels, norm, [[32], [64], [64]], last_pool=False)
    size = _pooled(image_size, 2, "vgg5")
    units["fc1"] = nn.Sequential(nn.Flatten(), nn.Linear(64 * size**2, 128), nn.ReLU())
    units["fc2"] = nn.Linear(128, num_classes)
    return nn.Sequential(units)


def vgg11(channels: int, image_size: int, num_classes: int, norm: Norm) -> nn.Sequential:
    """VGG11 (configuration A of Simonyan and Zisserman, 2015), Q = 11 units; arguments as for `vgg5`.

    `image_size` is at least 32; at 32 the head is 512-4096-4096 as in the paper's reference.
    """
    blocks = [64], [128], [256] * 2, [512] * 2, [512] * 2
    return _with_large_head(_features(channels, norm, blocks), _pooled(image_size, 5, "vgg11"), num_classes)


def vgg16(channels: int, image_size: int, num_classes: int, norm: Norm) -> nn.Sequential:
    """VGG16 (configuration D), Q = 16 units; see `vgg11`."""
    blocks = [64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3
    return _with_large_head(_features(channels, norm, blocks), _pooled(image_size, 5, "vgg16"), num_classes)


def _with_large_head(units: OrderedDict[str, nn.Module], size: int, num_classes: int) -> nn.Sequential:
    units["fc1"] = nn.Sequential(nn.Flatten(), nn.Linear(512 * size**2, 4096), nn.ReLU(), nn.Dropout())
    units["fc2"] = nn.Sequential(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout())
    units["fc3"] = nn.Linear(4096, num_classes)
    return nn.Sequential(units)
