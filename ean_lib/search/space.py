"""The schemes that a search may propose: all of them, or those within its constraints."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb

import torch

from ean_lib.checks import check
from ean_lib.schemes import Scheme

# What a pattern says of a block: connected, not connected, or to be searched.
PATTERN = {"1": True, "0": False, "?": None}


class Space:
    """The schemes of some stages that keep fixed bits and connect no more than so many blocks.

    Args:
        stages: blocks per stage, such as (1, 2, 2).
        fixed: a pattern such as "1-?0-??", written like a scheme: a block with 1 is always connected, one with 0 never,
            one with ? is searched. None: all are searched.
        max_connected: the most blocks that may be connected, the fixed ones included. None: all.

    Raises:
        ValueError: if the pattern is not one of these stages, or fixes more connections than are allowed.
    """

    def __init__(self, stages: Sequence[int], fixed: str | None = None, max_connected: int | None = None) -> None:
        self.stages = Scheme.none(stages).stages
        self.fixed = read_pattern(fixed, self.stages)
        self.blocks = len(self.fixed)
        self.free = [block for block, bit in enumerate(self.fixed) if bit is None]
        always = self.fixed.count(True)
        most = self.blocks if max_connected is None else max_connected
        if always > most:
            raise ValueError(
                f"max_connected is {most}, but the pattern {fixed} connects {always} blocks already: "
                "allow more connections, or fix fewer"
            )
        self.room = min(len(self.free), most - always)  # how many of the free blocks may be connected
        self.size = sum(comb(len(self.free), connected) for connected in range(self.room + 1))

    def __contains__(self, scheme: Scheme) -> bool:
        keeps_fixed = all(fixed in (None, bit) for bit, fixed in zip(scheme.bits, self.fixed, strict=True))
        connected = sum(scheme.bits[block] for block in self.free)
        return keeps_fixed and connected <= self.room

    def scheme(self, connected: Sequence[int]) -> Scheme:
        """The scheme that connects these free blocks, and of the others what is fixed."""
        bits = [bool(bit) for bit in self.fixed]
        for block in connected:
            bits[block] = True
        return Scheme(tuple(bits), self.stages)

    def all(self) -> Iterator[Scheme]:
        """Every scheme, in the order of their texts, which is that of `Scheme.all_of`."""
        if self.room == len(self.free) == self.blocks:
            return Scheme.all_of(self.stages)
        counts = range(self.room + 1)
        schemes = [self.scheme(blocks) for count in counts for blocks in combinations(self.free, count)]
        return iter(sorted(schemes, key=str))

    def random(self, generator: torch.Generator) -> Scheme:
        """One of all schemes, uniformly."""
        if self.room == len(self.free):
            return self.project(Scheme.random(self.stages, generator).bits, generator)
        # First how many blocks, in proportion to the number of such schemes, then which.
        shares = [comb(len(self.free), count) / self.size for count in range(self.room + 1)]
        count = int(torch.multinomial(torch.tensor(shares, dtype=torch.float64), 1, generator=generator))
        order = torch.randperm(len(self.free), generator=generator).tolist()
        return self.scheme([self.free[i] for i in order[:count]])

    def project(self, bits: Sequence[bool], generator: torch.Generator) -> Scheme:
        """The scheme with fixed bits put right; connections beyond those allowed are dropped at random."""
        connected = [block for block in self.free if bits[block]]
        if len(connected) > self.room:
            order = torch.randperm(len(connected), generator=generator).tolist()
            connected = [connected[i] for i in order[: self.room]]
        return self.scheme(connected)

    def most_probable(self, probabilities: Sequence[float]) -> Scheme:
        """The scheme with the highest probability where each block is connected independently with its own."""
        likely = [block for block in self.free if probabilities[block] > 0.5]
        likely.sort(key=lambda block: -probabilities[block])
        return self.scheme(likely[: self.room])


def read_pattern(pattern: str | None, stages: tuple[int, ...]) -> list[bool | None]:
    """What a pattern such as "1-?0-??" says of each block.

    Raises:
        ValueError: if it is not written with 0, 1 and ? for these stages.
    """
    if pattern is None:
        return [None] * sum(stages)
    example = "-".join("?" * blocks for blocks in stages)
    parts = pattern.split("-")
    fits = tuple(len(part) for part in parts) == stages and set("".join(parts)) <= set(PATTERN)
    check("fixed", pattern, fits, f'a pattern of 0, 1 and ? for stages of {stages} blocks, such as "1{example[1:]}"')
    return [PATTERN[character] for character in "".join(parts)]
