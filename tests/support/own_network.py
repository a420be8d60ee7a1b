"""Networks as users write them; `build` is docs/examples/own_network.py in short."""

from torch import Tensor, nn

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


def frozen_first(channels: int, image_size: int, num_classes: int) -> list[nn.Module]:
    """Nothing to train in the first unit, whose batch norm still counts; the second is frozen in part."""
    first, second, third = build(channels, image_size, num_classes, WIDTH)
    first = nn.Sequential(first, nn.BatchNorm2d(WIDTH)).requires_grad_(False)
    next(own for name, own in second.named_parameters() if name == "0.bias").requires_grad_(False)
    return [first, second, third]


def pooling_first(channels: int, image_size: int, num_classes: int) -> list[nn.Module]:
    return [nn.AvgPool2d(2), *build(channels, image_size // 2, num_classes, WIDTH)]


def frozen_middle(channels: int, image_size: int, num_classes: int) -> list[nn.Module]:
    """The gradient passes through what is frozen."""
    first, second, third = build(channels, image_size, num_classes, WIDTH)
    return [first, second.requires_grad_(False), third]


def frozen_last(channels: int, image_size: int, num_classes: int) -> list[nn.Module]:
    """The server half has nothing to train."""
    first, second, third = build(channels, image_size, num_classes, WIDTH)
    return [first, second, third.requires_grad_(False)]


def frozen_whole(channels: int, image_size: int, num_classes: int) -> nn.Module:
    return build(channels, image_size, num_classes).requires_grad_(False)


def dropping(channels: int, image_size: int, num_classes: int) -> list[nn.Module]:
    """Dropout wherever it is cut; on the device, of whole channels."""
    first, second, third = build(channels, image_size, num_classes)
    return [nn.Sequential(first, nn.Dropout2d(0.3)), nn.Sequential(second, nn.Dropout(0.5)), third]


class Rounding(nn.Module):
    """Its output is no activation that could cross."""

    def forward(self, x: Tensor) -> Tensor:
        return x.long()


def rounding() -> list[nn.Module]:
    return [Rounding(), nn.Embedding(10, 2)]


class LastFirst(nn.Module):
    """Outputs [b, T, C] as cross entropy takes them: [b, C, T]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def for_tokens(input_shape: tuple[int, ...], num_classes: int) -> list[nn.Module]:
    return [nn.Embedding(num_classes, 4), nn.Sequential(nn.Linear(4, num_classes), LastFirst())]


def vectors(input_shape: tuple[int, ...], width: int | None = None) -> list[nn.Module]:
    return [nn.Sequential(nn.Linear(width or input_shape[0], 8), nn.Tanh()), nn.Linear(8, 1), nn.Flatten(0)]


FROZEN = {make.__name__: make for make in (frozen_first, pooling_first, frozen_middle, frozen_last)}
