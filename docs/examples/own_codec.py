"""A codec of your own: of each value its sign, and of each sample the mean magnitude; one bit per value.

compression.activations.name=custom compression.activations._target_=own_codec.SignAndMean
"""

from math import ceil, prod

import torch
from torch.nn.functional import pad


class SignAndMean:
    def num_bytes(self, shape, dtype):
        return shape[0] * (4 + ceil(prod(shape[1:]) / 8))

    def encode(self, values, noise):
        num_samples, length = len(values), prod(values.shape[1:])
        flat = values.reshape(num_samples, length).float()
        means = flat.abs().sum(1) / length
        bits = pad(flat > 0, (0, -length % 8)).view(num_samples, ceil(length / 8), 8)
        signs = (bits * 2 ** torch.arange(8, device=values.device)).sum(2).to(torch.uint8)
        return torch.cat([means.view(torch.uint8), signs.view(-1)])

    def decode(self, payload, shape, dtype):
        num_samples, length = shape[0], prod(shape[1:])
        means = payload[: 4 * num_samples].view(torch.float32).view(num_samples, 1)
        signs = payload[4 * num_samples :].view(num_samples, ceil(length / 8), 1)
        bits = (signs >> torch.arange(8, device=payload.device)) & 1
        return (means * (2.0 * bits.flatten(1)[:, :length] - 1)).view(shape).to(dtype)
