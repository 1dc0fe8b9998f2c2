"""Features of images and texts, apart: computed once, kept in a file, searched by words."""

import tempfile
from pathlib import Path

import numpy as np

import mobileclip_keras as mk
from mobileclip_keras import verify

photos = sorted(Path(verify.__file__).parent.glob("photos/*.jpg"))[:4]
names = tuple(photo.name for photo in photos)

model = mk.MobileClipModel.from_variant("s0")  # untrained: what is found means nothing
images = mk.ImagePreprocessor.from_variant("s0")(photos)
features = model.predict({"image": images}, verbose=0)["image_features"]
print("features", features.shape, "of length", np.linalg.norm(features, axis=1).round(4))

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "photos.npz"
    mk.Embeddings("s0", names, features, texts=(), text_features=np.empty((0, features.shape[1]))).save(file)
    stored = mk.Embeddings.load(file)

index = mk.EmbeddingIndex(stored.names, stored.features, model)
for query, matches in zip(["a cat", "outer space"], index.search(["a cat", "outer space"], top_k=2), strict=True):
    print(f"{query}:", ", ".join(f"{name} {score:.3f}" for name, score in matches))
