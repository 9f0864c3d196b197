"""Estimators for runs, pairs of runs, selections and targets, each with its interval."""
