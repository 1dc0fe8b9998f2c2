"""Bundles for devices: each tower as a file that LiteRT, ONNX Runtime, OpenVINO or TensorFlow runs, with its proof."""
