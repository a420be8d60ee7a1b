"""A codec that only the server's machine has."""

import os

from pipar_rpc.compression.exact import Exact

__all__ = ["Exact"]

if os.environ.get("RANK", "0") != "0":
    raise ImportError("only the server has this")
