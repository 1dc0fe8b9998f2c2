"""A forward pass: images and texts in, similarities out. The model is untrained, so they mean nothing yet."""

from pathlib import Path

from keras import ops

import mobileclip_keras as mk
from mobileclip_keras import verify

photos = sorted(Path(verify.__file__).parent.glob("photos/*.jpg"))[:2]

model = mk.MobileClipModel.from_variant("s0")
images = mk.ImagePreprocessor.from_variant("s0")(photos)
tokens = mk.Tokenizer()(["a photo of an astronaut", "a photo of a cat", "a photo of a cup of coffee"])

outputs = model({"image": images, "text": tokens})
similarities = ops.matmul(outputs["image_features"], ops.transpose(outputs["text_features"]))
probabilities = ops.softmax(outputs["logit_scale"] * similarities)
print("images", images.shape, images.dtype, "· tokens", tokens.shape, tokens.dtype)
print("probabilities, an image to a row:")
print(ops.convert_to_numpy(probabilities).round(3))
