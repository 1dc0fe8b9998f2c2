"""Pairs of images and texts: read from tables, class folders and shards, checked, held back, put into batches."""
