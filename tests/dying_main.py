"""The ordinary command; but the first server that torchrun starts dies while it writes the model."""

import os
from pathlib import Path

import torch

from pipar_rpc.__main__ import main

save = torch.save


def half(content, file):
    if "format" in content:  # a checkpoint
        save(content, file)
        return
    if isinstance(file, str | Path):
        Path(file).write_bytes(b"half a model")
    else:
        file.write(b"half a model")
        file.flush()
    os._exit(1)


if os.environ["RANK"] == "0" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    torch.save = half
main()
