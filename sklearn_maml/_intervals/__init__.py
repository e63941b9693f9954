"""Intervals that hold for a new task: conformal calibration over tasks."""
