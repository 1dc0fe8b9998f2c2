"""Building variants: what each is made of, and how much folding saves."""

import mobileclip_keras as mk

for name, variant in mk.MobileClipModel.MODEL_VARIANTS.items():
    towers = f"{variant.image_tower} + {variant.text_tower}"
    print(f"{name:17} {towers:34} {variant.image_size} px, features of {variant.embed_dim}, by {variant.publisher}")

model = mk.MobileClipModel.from_variant("s0")
folded = model.reparameterize()
for tower in ("image_encoder", "text_encoder"):
    before, after = (getattr(one, tower) for one in (model, folded))
    print(f"{tower}: {before.count_params():,} parameters to train, {after.count_params():,} to run")
