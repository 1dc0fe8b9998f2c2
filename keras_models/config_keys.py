"""Keys of a tower's config that say what became of its layers, where the others say how it is built."""

TRAINABLE = "trainable"
TRAINABLE_PARTS = "trainable_parts"
"""Flags of parts that differ from what they lie in, by path."""
ADAPTERS = "lora"
"""Rank and alpha of LoRA adapters, by the paths of their layers."""
QUANTIZED = "quantized"
"""Paths of the layers whose weights are 8-bit integers."""

OWN_STATE = (TRAINABLE, TRAINABLE_PARTS, ADAPTERS, QUANTIZED)
