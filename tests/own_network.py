"""Networks as users write them; `build` is docs/examples/own_network.py in short."""

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
