"""The blocks that towers are stacked from, named as in the papers."""
