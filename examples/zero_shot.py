"""Zero-shot classification: labels of your own, and no training.

With no argument the model is untrained and the answers mean nothing; give a converted folder or a variant:

    python zero_shot.py s2
"""

import sys
from pathlib import Path

import mobileclip_keras as mk
from mobileclip_keras import verify

photos = sorted(Path(verify.__file__).parent.glob("photos/*.jpg"))[:3]

given = sys.argv[1:]
model = mk.MobileClipModel.from_pretrained(given[0]) if given else mk.MobileClipModel.from_variant("s0")

classifier = mk.ZeroShotClassifier(model, ["astronaut", "camera man", "cat"], templates="single")
for photo, predictions in zip(photos, classifier.classify(photos, top_k=2), strict=True):
    answers = ", ".join(f"{label} {probability:.0%}" for label, probability in predictions)
    print(f"{photo.name}: {answers}")
