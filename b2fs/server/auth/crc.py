"""Cyclic checksums put together: that of two contents one after the other, from theirs and the second's length.

A cyclic checksum is the rest of a division of polynomials over GF(2).  Each zero bit behind a content multiplies it by
x, so the first checksum is multiplied by x to the power of the second content's bits, and the second one is added.  All
numbers are in the reflected form that the checksums themselves have: the highest bit stands for x to the power of 0.
"""

from __future__ import annotations

from functools import lru_cache


def _multiply(left: int, right: int, polynomial: int, bits: int) -> int:
    """The product of two polynomials modulo the third."""
    product = 0
    for position in range(bits - 1, -1, -1):
        if left >> position & 1:
            product ^= right
        right = right >> 1 ^ (polynomial if right & 1 else 0)
    return product


@lru_cache(maxsize=256)
def _zeros(length: int, polynomial: int, bits: int) -> int:
    """x to the power of 8 * length modulo the polynomial; parts are mostly of one length."""
    power, square = 1 << (bits - 1), 1 << (bits - 2)
    exponent = length * 8
    while exponent:
        if exponent & 1:
            power = _multiply(power, square, polynomial, bits)
        square = _multiply(square, square, polynomial, bits)
        exponent >>= 1
    return power


def combine(first: int, second: int, second_length: int, polynomial: int, bits: int) -> int:
    """The checksum of the first content with the second (of second_length bytes) behind it.

    polynomial is reflected, bits its width.  Right for checksums whose start and final mask are all ones.
    """
    return _multiply(_zeros(second_length, polynomial, bits), first, polynomial, bits) ^ second
