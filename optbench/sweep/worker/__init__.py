"""The processes that train the runs of a sweep, their supervisor, and the meeting of the ranks of one run."""
