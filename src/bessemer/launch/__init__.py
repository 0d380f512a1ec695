"""Where a plan runs. Today: here, in this process."""
