"""How the tiny model of shapes is trained, in plain PyTorch. examples/train_shapes.py is the program."""
