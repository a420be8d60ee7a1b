"""Computing on CPUs and GPUs alike."""

import torch


def finish(device: torch.device) -> None:
    """Waits until a GPU has done what it was given, so that a span ends when the work does."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
