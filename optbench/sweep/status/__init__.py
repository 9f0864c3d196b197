"""The state of a sweep: of its runs, its jobs and its commands, for display and for planning."""
