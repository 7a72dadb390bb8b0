"""The raw CRC-32C against its definition, one bit at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from obdsup.format.crc import crc32c_raw


def by_definition(seed: int, data: bytes) -> int:
    register = seed
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register


@given(st.integers(0, 2**32 - 1), st.binary(max_size=200))
def test_equals_the_definition(seed: int, data: bytes) -> None:
    assert crc32c_raw(seed, data) == by_definition(seed, data)


@given(st.integers(0, 2**32 - 1), st.binary(max_size=100), st.binary(max_size=100))
def test_chains(seed: int, first: bytes, second: bytes) -> None:
    assert crc32c_raw(crc32c_raw(seed, first), second) == crc32c_raw(seed, first + second)
