"""Embedding on a Ray cluster. Importing this needs no Ray."""
