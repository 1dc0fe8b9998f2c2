"""What models are given: pictures and texts made into arrays."""
