"""Sources -> curated -> rendered -> token shards -> packed -> mixed -> batches. Usable without the rest of Bessemer.

    from bessemer.data import Mixture, Packer, Renderer, Source, batches, pack_source

    renderer = Renderer("path/to/a/model")
    own = pack_source("own", Source("own.jsonl"), renderer, Packer(512))
    web = pack_source("web", Source("web/*.parquet"), renderer, Packer(512))
    rows = {"own": own.n_rows, "web": web.n_rows}
    mixture = Mixture({"own": 3, "web": 1}, rows, n_rows=1000)
    for batch in batches([own, web], mixture, rows=8):
        ...

Names are imported when they are first used: reading a recipe needs neither numpy nor a tokenizer.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bessemer.data.batch import Batch, PackedSource, StageData, batches
    from bessemer.data.items import Item, Message
    from bessemer.data.mixture import Change, Mixture, Pick
    from bessemer.data.pack import Packed, Packer
    from bessemer.data.render import Renderer
    from bessemer.data.shards import Segment, TokenSet
    from bessemer.data.sources import Source
    from bessemer.data.stage import pack_source
    from bessemer.data.torch_data import MixtureDataset

_ROOMS = {
    "batch": ("Batch", "PackedSource", "StageData", "batches"),
    "items": ("Item", "Message"),
    "mixture": ("Change", "Mixture", "Pick"),
    "pack": ("Packed", "Packer"),
    "render": ("Renderer",),
    "shards": ("Segment", "TokenSet"),
    "sources": ("Source",),
    "stage": ("pack_source",),
    "torch_data": ("MixtureDataset",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "Batch",
    "Change",
    "Item",
    "Message",
    "Mixture",
    "MixtureDataset",
    "Packed",
    "PackedSource",
    "Packer",
    "Pick",
    "Renderer",
    "Segment",
    "Source",
    "StageData",
    "TokenSet",
    "batches",
    "pack_source",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
