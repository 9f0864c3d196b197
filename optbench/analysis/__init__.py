"""What finished and running studies say: statistics, fits, figures, pages. Nothing here imports torch."""
