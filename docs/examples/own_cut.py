"""A privacy mechanism of one's own: activations lose a random share of their values."""

import torch


class RandomMask:
    """Sets values to 0 with probability `share` and scales the others by 1 / (1 - share)."""

    def __init__(self, noise, share=0.5):
        self.noise, self.share = noise, share

    def release(self, part, activation):
        drawn = self.noise.gaussian_of_samples(activation.shape, part.first, part.epoch, part.iteration)
        kept = torch.special.ndtr(drawn) >= self.share
        return activation * kept.to(activation) / (1 - self.share)

    def loss(self, part, inputs, activation):
        return None  # or a scalar: a further term of the device's loss
