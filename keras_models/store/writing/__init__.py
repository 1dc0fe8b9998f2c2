"""Outputs that appear whole or not at all, and never in place of somebody's own files."""
