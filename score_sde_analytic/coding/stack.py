"""A string of bits that symbols are pushed onto, and popped from, by their probabilities: the last one in is the first one out.

push   len += -log2 p(symbol)          pop   the symbol that the bits at the end mean under p;  len -= -log2 p(symbol)

Popping undoes pushing and pushing undoes popping, to the bit. Popping from random bits draws a symbol from p: "bits back".
(Asymmetric numeral systems: Duda, 2009. The coder is constriction's: Bamler, 2022; probabilities are multiples of 2^-24.)
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from score_sde_analytic.errors import InputError, UserError
from score_sde_analytic.extras import optional

Symbols = NDArray[np.int32]
Words = NDArray[np.uint32]
WORD = 32
#: Words below which a stack may not fall: what is popped from fewer is not random, and the rate not what it should be.
FLOOR = 2
#: The most symbols of an alphabet whose members are all to have a probability.
MOST_SYMBOLS = 2**23


class ShallowError(UserError):
    """A stack that holds too few bits for what is to be popped."""


@cache
def _stream() -> Any:
    return optional("constriction", extra="coding", user="lossless coding").stream


class Stack:
    """Words of 32 bits.

    >>> stack = Stack(np.arange(8, dtype=np.uint32))
    >>> before = stack.words
    >>> stack.push(np.array([3, 0], np.int32), uniform(5))
    >>> stack.pop(uniform(5), 2), bool((stack.words == before).all())
    (array([3, 0], dtype=int32), True)

    Args:
        words: what lies on it.
        sealed: whether they are the `words` of a stack; others are sealed with a last word, so that none of them is lost.

    Raises:
        InputError: sealed words without a seal.
    """

    def __init__(self, words: Words, sealed: bool = False) -> None:
        if sealed and not (len(words) and words[-1]):
            raise InputError("a string of bits that ends in a word of zeros was not coded here")
        self._ans = _stream().stack.AnsCoder(np.ascontiguousarray(words, np.uint32), seal=not sealed)
        self.lowest = self.bits

    @property
    def bits(self) -> int:
        """Its length."""
        return int(self._ans.num_valid_bits())

    @property
    def words(self) -> Words:
        """All of it."""
        return np.asarray(self._ans.get_compressed(), np.uint32)

    def mark(self) -> Any:
        """It as it is, for `back`."""
        return self._ans.clone()

    def back(self, mark: Any) -> None:
        """To what it was at a mark."""
        self._ans = mark.clone()
        self.lowest = self.bits

    def pop(self, model: Any, *parameters: Any) -> Symbols:
        """The symbols that lie on top, by constriction's model and its parameters or their number.

        Raises:
            ShallowError: the stack is too short to pop them from.
        """
        symbols = self.take(model, *parameters)
        self.lowest = min(self.lowest, self.bits)
        if self._ans.num_words() < FLOOR:
            raise ShallowError("the stack ran out of bits")
        return symbols

    def take(self, model: Any, *parameters: Any) -> Symbols:
        """Symbols that were pushed, down to the last.

        Raises:
            ShallowError: nothing is left to take them from.
        """
        if self._ans.is_empty():
            raise ShallowError("the stack is empty")
        return np.asarray(self._ans.decode(model, *parameters), np.int32)

    def push(self, symbols: Symbols, model: Any, *parameters: Any) -> None:
        """Symbols by constriction's model and its parameters."""
        self._ans.encode_reverse(np.ascontiguousarray(symbols, np.int32), model, *parameters)


@cache
def uniform(size: int) -> Any:
    """Symbols 0 .. size - 1, all alike."""
    return _stream().model.Uniform(size)


@cache
def normals(low: int, high: int) -> Any:
    """Whole numbers low .. high by the mass of a normal between their halves, by its mean and standard deviation."""
    return _stream().model.QuantizedGaussian(low, high)


@cache
def tables() -> Any:
    """Symbols 0, 1, .. by a row of probabilities each."""
    return _stream().model.Categorical(perfect=False)
