"""Private inference: an OpenAI-compatible server for one release, pinned by its digest."""
