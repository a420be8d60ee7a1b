"""Streams of random numbers."""

import torch

from pipar_rpc.base.random_streams import generator


def test_random_streams_are_repeatable_and_independent():
    def draw(*stream):
        return torch.rand(4, generator=generator(7, *stream)).tolist()

    assert draw("shuffle", 1, 2) == draw("shuffle", 1, 2)
    different = [draw("shuffle", 1, 2), draw("shuffle", 2, 1), draw("augment", 1, 2), draw("shuffle", 1)]
    assert len({tuple(values) for values in different}) == 4
