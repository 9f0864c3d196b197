"""Sweeps: many runs, planned and checked at once, done by workers that may come and go, here or on Slurm.

    expand     the words after -m, and an experiment's grid, become cells: composed as Hydra would, and checked
    launch     cells become a plan and frozen run directories; what is done is dropped, the rest goes to a launcher
    plan       what a sweep is made of: results/sweeps/NAME
    queue      which run a worker does next, by the store's locks
    supervisor keeps the workers of one machine alive; optbench.worker is what they do
    local, slurm  the launchers
    survey     what every run is doing
    reset      puts failed runs back, to be done again

Nothing here imports torch: planning and looking after a sweep answer within a second.
"""
