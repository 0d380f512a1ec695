"""Metrics first go to a file that can be read without us."""
