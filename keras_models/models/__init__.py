"""The models that people use: image encoder, text encoder, and both in one."""
