"""A data set of your own, whose inputs are no images, and a network for it."""

import torch
from sklearn.datasets import load_wine
from torch import nn
from torch.utils.data import Dataset


class Wine(Dataset):
    """178 wines: 13 measured values each, and which of three growers it is from; a fifth is for testing."""

    def __init__(self, split, noise=0.0):
        values, growers = load_wine(return_X_y=True)
        values = (values - values.mean(axis=0)) / values.std(axis=0)
        chosen = [i for i in range(len(growers)) if (i % 5 == 0) == (split == "test")]
        self.values, self.targets = torch.tensor(values[chosen]), torch.tensor(growers[chosen])
        self.noise = noise if split == "train" else 0.0

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        values = self.values[index]
        return values + self.noise * torch.randn(values.shape), self.targets[index]


def build(input_shape, num_classes, width=32):
    return nn.Sequential(
        nn.Sequential(nn.Linear(input_shape[0], width), nn.ReLU()),
        nn.Sequential(nn.Linear(width, width), nn.ReLU()),
        nn.Linear(width, num_classes),
    )
