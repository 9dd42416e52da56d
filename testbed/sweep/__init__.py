"""Sweeps: a grid of experiments, played into one table that outlives whoever fills it."""
