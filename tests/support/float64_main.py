"""The ordinary command, computing in double precision, so that tests can ask for equality to rounding."""

import torch

from pipar_rpc.__main__ import main

torch.set_default_dtype(torch.float64)
main()
