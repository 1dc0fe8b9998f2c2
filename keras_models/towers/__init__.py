"""The image and text backbones, and folding them."""
