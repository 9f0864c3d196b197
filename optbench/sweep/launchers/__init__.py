"""The launchers, which start the workers of a sweep on this machine or in jobs of Slurm."""
