"""Bessemer: an open, self-hosted Forge.

`load_recipe(...).plan().run()` does what `bessemer run` does; `Release("name@1")` opens what came out. Importing
this package loads nothing heavy; see bessemer/api.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bessemer.api import Release, load_recipe

__version__ = "0.1.0"
__all__ = ["Release", "__version__", "load_recipe"]


def __getattr__(name: str) -> Any:
    if name in {"Release", "load_recipe"}:
        from bessemer import api

        return getattr(api, name)
    raise AttributeError(f"module 'bessemer' has no attribute {name!r}")
