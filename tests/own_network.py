"""Networks as users write them; `build` is the example of README."""

from torch import nn

WIDTH = 4


def build(channels, image_size, num_classes, width=32):
    def conv(inputs):
        return nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))

    size = image_size // 4
    return nn.Sequential(
        conv(channels), conv(width), nn.Sequential(nn.Flatten(), nn.Linear(width * size**2, num_classes))
    )


def as_list(**sizes):
    return list(build(sizes["channels"], sizes["image_size"], sizes["num_classes"]))


class Whole(nn.Module):
    pass


def whole():
    return Whole()


def failing():
    raise ValueError("no such width")


def tied():
    layer = nn.Linear(4, 4)
    return [layer, layer]


def repeated():
    relu, dropout = nn.ReLU(), nn.Dropout()
    return [nn.Flatten(), relu, dropout, relu, dropout, nn.Linear(3 * 32 * 32, 10)]


def misfitting():
    return [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(5, 4, 3)]


def other_classes():
    return [nn.Flatten(), nn.Linear(3 * 32 * 32, 3)]


def frozen_first(channels, image_size, num_classes):
    """Nothing to train in the first unit, whose batch norm still counts; the second is frozen in part."""
    first, second, third = build(channels, image_size, num_classes, WIDTH)
    first = nn.Sequential(first, nn.BatchNorm2d(WIDTH)).requires_grad_(False)
    second[0].bias.requires_grad_(False)
    return [first, second, third]


def pooling_first(channels, image_size, num_classes):
    return [nn.AvgPool2d(2), *build(channels, image_size // 2, num_classes, WIDTH)]


def frozen_middle(channels, image_size, num_classes):
    """The gradient passes through what is frozen."""
    first, second, third = build(channels, image_size, num_classes, WIDTH)
    return [first, second.requires_grad_(False), third]


def frozen_last(channels, image_size, num_classes):
    """The server half has nothing to train."""
    first, second, third = build(channels, image_size, num_classes, WIDTH)
    return [first, second, third.requires_grad_(False)]


def frozen_whole(channels, image_size, num_classes):
    return build(channels, image_size, num_classes).requires_grad_(False)


FROZEN = {make.__name__: make for make in (frozen_first, pooling_first, frozen_middle, frozen_last)}
