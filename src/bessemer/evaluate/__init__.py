"""Held-out measurements, statistics with intervals, scorecard and verdict."""
