"""The processes that train the runs of a sweep, their supervisor, and the rendezvous of the ranks of one run."""
