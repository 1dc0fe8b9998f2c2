"""What "equal to PyTorch" means: the one place where tolerances are stated.

PyTorch's float64 logits are the truth. e_torch is how far PyTorch's own float32 logits are from them, e_keras how far
Keras' float32 logits are. No float32 run can be closer to the truth than float32 arithmetic allows. e_torch measures
what that allows, on the same inputs. One run of PyTorch says too little: in another order of sums, or on another
processor, its error is half or twice as large. So e_torch is the largest over several equally good runs
(torch_models/runs.py).

Keras' float32 is computed by every program that people run (programs.py), in full float32 on the device in use
(precision.py).
"""

FLOAT64_TOLERANCE = 1e-9
"""Keras in float64 against PyTorch in float64: largest difference of unnormalised features, relative to the largest
feature. Float64 rounds at 1e-16, and the rounding of some hundred layers adds up to about 1e-14. A different formula
anywhere, such as an epsilon of 1e-6 in place of 1e-5, makes a difference of 1e-7 or more."""

RMS_RATIO = 1.5
"""The root mean square of e_keras is at most this times that of e_torch. That leaves room for another order of
summation, and for no more error than that."""

MAX_RATIO = 2.0
"""The largest e_keras is at most this times the largest e_torch. A maximum scatters more than a mean."""

BY_LUCK = 10.0
"""Where an error is above its limit by no more than this, more runs of PyTorch are made before it is judged. Beyond it
they could not explain the error: 13 runs on s0 and s2 differed by 1.7 times, and on an ill-conditioned input by 40."""

LOGIT_FLOOR = 1e-5
"""On logits at scale 100. The largest e_keras may be this even where the largest e_torch happens to be smaller. Two
matches that are closer than this in float64 count as equally good, because rounding decides which comes first."""

LARGEST_TORCH_ERROR = 0.01
"""On logits at scale 100. Where a model is published, PyTorch's own float32 was no further off than this. Else a record
could say any error, and other weights would pass as these. Weights of every kind were off by less than 0.001."""

ROUNDED = {"float16": 2**13, "bfloat16": 2**16}
"""Weights that were rounded to half precision after the verification may be off by this times as much: by so much is
their rounding coarser than float32's."""

LENGTH_TOLERANCE = 5e-5
"""Features have length 1 to this: 768 rounded squares are added up, each off by 2**-24 at most."""

LOGIT_SCALE = 100.0
"""Logits are cosine similarities times this, the largest scale that a model can have."""
