"""Training as a file: saving it, and going on from it."""
