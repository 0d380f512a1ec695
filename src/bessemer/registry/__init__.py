"""Releases: immutable, pinned by digest, with lineage, model card and report."""
