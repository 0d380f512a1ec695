"""The catalogue: where to start, and how those bytes are fetched, checked and kept."""
