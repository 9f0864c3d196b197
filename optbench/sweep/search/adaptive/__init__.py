"""search=adaptive: optima and their law from a part of a grid, by a surrogate that pools all conditions."""
