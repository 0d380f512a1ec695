"""Where a plan runs: here, in workers of this machine, on Slurm, on Ray. It supervises and never trains."""
