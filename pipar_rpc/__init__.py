"""PiPar: pipeline parallelism for collaborative machine learning, on torch.distributed.rpc."""

__version__ = "0.1.0"
