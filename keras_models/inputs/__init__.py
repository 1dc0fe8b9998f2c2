"""What models take: images and texts as arrays."""
