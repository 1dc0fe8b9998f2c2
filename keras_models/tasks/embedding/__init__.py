"""Embedding collections of any size: an embedder, a store of Parquet parts, and finding things in it."""
