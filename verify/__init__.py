"""Keras against PyTorch, number by number: fixed inputs, references, criteria, the report."""
