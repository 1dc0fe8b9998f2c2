"""Readers of data sets, one image at a time."""
