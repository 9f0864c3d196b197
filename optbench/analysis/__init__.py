"""Analyse finished and running studies: statistics, fits, charts, pages. Nothing here imports torch."""
