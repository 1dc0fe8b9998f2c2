"""A world of generated pictures with captions, and the tiny MobileCLIP that this project trained on it.

Pictures show shapes: how many, which, of which colour and texture, where, on what background. Nothing here is Apple's:
neither the pictures nor the weights.
"""
