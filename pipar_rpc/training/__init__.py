"""Algorithms 1 and 2: the device half and the server half, without RPC."""
