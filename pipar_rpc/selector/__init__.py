"""Chooses the split point P and the number of micro-batches N of each device."""
