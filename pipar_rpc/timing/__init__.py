"""Spans of time, the figures that are computed from them, and the stage recurrence."""
