"""Bessemer: an open, self-hosted Forge. See the README; the commands and this module do the same things.

>>> import bessemer
>>> run = bessemer.load_recipe("recipes/demo.yaml").plan().run()     # doctest: +SKIP
>>> bessemer.Release("house-rules@1").generate("What is a list?")    # doctest: +SKIP
"""

__version__ = "0.1.0"
