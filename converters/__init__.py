"""From PyTorch checkpoints to folders that Keras loads, and back; publication; the command line."""
