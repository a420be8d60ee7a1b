"""Networks as users write them; `build` is docs/examples/own_network.py in short."""

from torch import nn

WIDTH = 4


def build(channels: int, image_size: int, num_classes: int, width: int = 32) -> nn.Sequential:
    def conv(inputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))

    size = image_size // 4
    return nn.Sequential(
        conv(channels), conv(width), nn.Sequential(nn.Flatten(), nn.Linear(width * size**2, num_classes))
    )


def as_list(**sizes: int) -> list[nn.Module]:
    return list(build(sizes["channels"], sizes["image_size"], sizes["num_classes"]))


class Whole(nn.Module):
    pass


def whole() -> nn.Module:
    return Whole()


def failing() -> nn.Module:
    raise ValueError("no such width")


def tied() -> list[nn.Module]:
    layer = nn.Linear(4, 4)
    return [layer, layer]


def repeated() -> list[nn.Module]:
    relu, dropout = nn.ReLU(), nn.Dropout()
    return [nn.Flatten(), relu, dropout, relu, dropout, nn.Linear(3 * 32 * 32, 10)]


def misfitting() -> list[nn.Module]:
    return [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(5, 4, 3)]


def other_classes() -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(3 * 32 * 32, 3)]
