"""Measures clinvk as ratios within one run; `python -m benchmarks` is the way in."""
