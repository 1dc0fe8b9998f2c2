"""What "equal to PyTorch" means: the one place where tolerances are stated.

Let e_torch be the error of PyTorch's own float32 logits against its float64 ones, and e_keras the error of Keras'
float32 logits against the same float64 ones. A float32 run cannot be asked to be closer to the truth than float32
arithmetic is, and PyTorch's own run on the same inputs measures how close that is.
"""

FLOAT64_TOLERANCE = 1e-9
"""Keras in float64 against PyTorch in float64: largest difference of unnormalised features, relative to the largest
feature. Float64 rounds at 1e-16, and some hundred layers add up to about 1e-14; another formula anywhere, such as an
epsilon of 1e-6 for 1e-5, shows at 1e-7 or more."""

FLOAT64_SAMPLE = 4
"""So many images, and texts, are compared in float64 and stage by stage. Another formula shows on any input. Rounding
is judged on all inputs, because its mean needs many."""

RMS_RATIO = 1.5
"""Root mean square of e_keras at most this times that of e_torch: another order of summation, not more error."""

MAX_RATIO = 2.0
"""Largest e_keras at most this times the largest e_torch; a maximum scatters more than a mean."""

LOGIT_FLOOR = 1e-5
"""Where the largest e_torch happens to be tiny, e_keras may still be this, on logits at scale 100. Two matches that are
closer than this in float64 are equally good: which of them is best is for rounding to say."""

LOGIT_SCALE = 100.0
"""Logits are cosine similarities times this, the largest scale that a model can have."""
