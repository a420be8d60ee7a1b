"""Rank 0's rounds: devices that take part, averages, both halves put in place."""
