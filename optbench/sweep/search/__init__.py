"""Searches: methods that train some cells of a grid, look at the results, and choose more."""
