"""A network of your own: model=custom model._target_=own_network.build model.args.width=64"""

from torch import nn


def build(channels, image_size, num_classes, width=32):
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Flatten(), nn.Linear(width * (image_size // 4) ** 2, num_classes)),
    )
