"""The file formats of checkpoints, each opened without running anything in the file."""
