"""A collection in a store that grows: embedded once, searched by words and pictures, checked for what is there twice.

With no argument the model is untrained and what is found means nothing; give a converted folder:

    python collection.py mobileclip_s2-keras
"""

import shutil
import sys
import tempfile
from pathlib import Path

import mobileclip_keras as mk
from mobileclip_keras import verify
from mobileclip_keras.keras_models.tasks.embedding.filling import fill

given = sys.argv[1:]
model = mk.MobileClipModel.from_pretrained(given[0]) if given else mk.MobileClipModel.from_variant("s0")
embedder = mk.Embedder(model, origin=given[0] if given else "s0", batch_size=4)

with tempfile.TemporaryDirectory() as folder:
    photos, store = Path(folder) / "photos", Path(folder) / "store"
    shutil.copytree(Path(verify.__file__).parent / "photos", photos, ignore=shutil.ignore_patterns("*.md", "*.py"))
    outcome = fill(store, [str(photos)], embedder)
    print(f"embedded {outcome.new}, {outcome.unreadable} unreadable")

    shutil.copy(photos / "cat.jpg", photos / "copy.jpg")
    outcome = fill(store, [str(photos)], embedder)
    print(f"embedded {outcome.new} more, {outcome.there} were there")

    collection = mk.Collection.open(store)
    texts = ["a cat", "outer space"]
    for text, matches in zip(texts, collection.search(embedder.texts(texts), top_k=2), strict=True):
        print(f"{text}:", ", ".join(f"{Path(name).name} {score:.3f}" for name, score in matches))
    for group in collection.duplicates(near=0.9999):
        print("the same:", ", ".join(Path(name).name for name, _ in group))
