"""Everything resolved before anything is spent."""
