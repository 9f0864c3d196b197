"""The state of a sweep: of its runs, its jobs and its commands, for people and for the planner."""
