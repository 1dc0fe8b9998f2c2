"""The runtimes: one file each, and what they share: traced towers, operations, the lint."""
