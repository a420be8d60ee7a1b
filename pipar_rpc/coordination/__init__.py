"""Rank 0's rounds: which devices take part, how their networks are averaged, where both halves are put."""
