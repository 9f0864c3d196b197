"""Estimators: of runs, pairs of runs, selections, targets; each with its interval."""
