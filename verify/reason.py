"""What a verification that failed says of its cause."""

from collections.abc import Sequence

from .compare import ExactCheck, RoundingCheck

TF32_BITS, BFLOAT16_BITS = 10, 7
"""Bits behind the first that they keep of a float32 number. Where still fewer are kept, something else is broken."""

LOW_PRECISION_RATIO = 20.0
"""From this rms ratio on, rounding of float32 is no explanation. TF32 gave 156 to 1689 on an NVIDIA H200."""


def find_reason(exact: Sequence[ExactCheck], rounding: Sequence[RoundingCheck], kept_bits: int) -> str | None:
    """The likely cause of a failure, in a sentence or two; None where nothing can be said.

    Args:
        exact: the checks in float64.
        rounding: the checks in float32.
        kept_bits: how many bits of what they multiply products and convolutions kept.
    """
    failed = [check for check in rounding if not check.passed]
    if not exact or not failed or not all(check.passed for check in exact):
        return None
    right = "Float64 agrees, so weights and formulas are right. "
    if BFLOAT16_BITS <= kept_bits <= TF32_BITS:
        return (
            f"{right}In float32, products or convolutions on this device round what they multiply to {kept_bits} bits "
            "(TF32 keeps 10, bfloat16 7, float32 23), though the switches for that are off."
        )
    passed = sorted({check.program for check in rounding} - {check.program for check in failed})
    if passed:
        wrong = " and ".join(sorted({check.program for check in failed}))
        return f"{right}Float32 agrees by {' and '.join(passed)} and differs by {wrong}, so that program is at fault."
    if max(check.rms_ratio for check in failed) >= LOW_PRECISION_RATIO:
        return (
            f"{right}Float32 is wrong by more than its rounding explains: something computes in a lower precision, "
            "such as TF32 or bfloat16, or by another formula in float32 alone."
        )
    return f"{right}Float32 rounds more here than in any of PyTorch's runs; nothing points to a lower precision."
