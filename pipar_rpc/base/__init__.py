"""Knows nothing of the rest: errors, seeds, threads, memory, GPU, disk, state dicts, micro-batches."""
