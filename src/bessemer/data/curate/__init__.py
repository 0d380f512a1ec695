"""From raw sources to a data set `name@version`: clean, without duplicates, split without leaks.

Reading order: `prepare.py` (the story), `steps.py` (what happens to one item), `near.py` and `match.py` (what needs all
items at once), `split.py`, `executors.py` (where it runs).
"""
