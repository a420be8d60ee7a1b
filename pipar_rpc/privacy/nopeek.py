"""NoPeek: activations that tell less of the inputs they were computed from (Vepakomma et al., 2020)."""

from torch import Tensor

from pipar_rpc.base.microbatch import Part
from pipar_rpc.privacy.distance_correlation import distance_correlation


class NoPeek:
    """Adds the distance correlation between inputs and activations to the device's loss.

    Vepakomma, Singh, Gupta and Raskar, "NoPeek: Information leakage reduction to share activations in
    distributed deep learning", ICDM Workshops 2020: the loss is that of the task + weight * dCor(X, Z).
    Here X and Z are those of a micro-batch, so the whole term is sum_n share_n * dCor(X_n, Z_n).

    Args:
        weight: weight of the distance correlation, above 0.
    """

    def __init__(self, weight: float) -> None:
        self._weight = weight

    def release(self, part: Part, activation: Tensor) -> Tensor:
        """The activation as it is."""
        return activation

    def loss(self, part: Part, inputs: Tensor, activation: Tensor) -> Tensor:
        """The weighted distance correlation, 0..weight."""
        return self._weight * distance_correlation(inputs, activation)
