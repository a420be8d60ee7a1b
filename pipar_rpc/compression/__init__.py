"""Fewer bytes: codecs of activations, their gradients and models."""
