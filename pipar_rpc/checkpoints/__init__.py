"""Checkpoints: saving a training as a file, and going on from it."""
