"""Connection schemes: which blocks of a residual network use their stage's attention module.

A scheme has one bit per block, in the order in which the blocks are computed, and is written with a dash
between stages: `110-0011` connects the first two of three blocks and the last two of four.
A `Scheme` cannot be changed and can be a dictionary key, so that a score found once is not computed again.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from reprlib import repr as short
from typing import Any

import torch

from ean_lib.checks import check, check_number, plain

MAX_BLOCKS = 10_000  # more is a mistake, and would fill the memory before anybody could say so
MAX_ENUMERATED_BLOCKS = 20  # 2^20 is about a million schemes


def _bit(value: Any, position: int) -> bool:
    bit = plain(value)
    if isinstance(bit, Integral) and bit in (0, 1):  # bools are integers too
        return bool(bit)
    raise ValueError(f"block {position} of a scheme must be 0, 1, False or True, got {short(value)}")


def _listed(value: Any) -> Any:
    """Plain lists in place of an array or a tensor; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _is_block_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 1 <= value <= MAX_BLOCKS


def _check_stages(stages: Any) -> tuple[int, ...]:
    """The blocks per stage as Python's own numbers."""
    listed = _listed(stages)
    counts = [plain(count) for count in listed] if _is_list(listed) else []
    are_counts = len(counts) > 0 and all(_is_block_count(count) for count in counts)
    expected = "the positive numbers of blocks of the stages, such as (3, 4, 6, 3)"
    check("stages", stages, are_counts and sum(counts) <= MAX_BLOCKS, f"{expected}, at most {MAX_BLOCKS:,} in all")
    return tuple(int(count) for count in counts)


@dataclass(frozen=True)
class Scheme:
    """A connection scheme: `bits[l]` is True where block l uses attention.

    Args:
        bits: one truth value per block, first block first.
        stages: the number of blocks of each stage; they add up to `len(bits)`.

    Raises:
        ValueError: if a bit is not 0 or 1, a stage is not a positive integer, or the two do not fit together.
    """

    bits: tuple[bool, ...]
    stages: tuple[int, ...]

    def __post_init__(self) -> None:
        stages = _check_stages(self.stages)
        listed = _listed(self.bits)
        check("the bits of a scheme", self.bits, _is_list(listed), "a sequence of 0 and 1, one per block")
        bits = tuple(_bit(value, position) for position, value in enumerate(listed))
        if len(bits) != sum(stages):
            raise ValueError(f"a scheme for stages {stages} needs {sum(stages)} bits, one per block, got {len(bits)}")
        object.__setattr__(self, "bits", bits)
        object.__setattr__(self, "stages", stages)

    @classmethod
    def parse(cls, value: Any, stages: Sequence[int] | None = None) -> Scheme:
        """Read a scheme in any of the forms in which people and files write one.

        Args:
            value: a text such as "110-0011"; a flat sequence, array or tensor of bools or 0-1 integers; one
                such sequence per stage; a mapping {"bits": one of these, "stages": optional}; JSON text of
                any of these; or a `Scheme`.
            stages: blocks per stage. Needed for flat sequences; if None, a text without dashes is one stage.
                Where `value` tells the stages too, the two must agree.

        Raises:
            ValueError: if the value is none of these forms or does not fit `stages`.
        """
        wanted = None if stages is None else _check_stages(stages)
        scheme = cls._read(value, wanted)
        if wanted is not None and scheme.stages != wanted:
            raise ValueError(
                f"the scheme {short(str(scheme))} is for stages of {scheme.stages} blocks, but stages of {wanted} "
                f'blocks are expected: write one bit per block, such as "{cls.full(wanted)}"'
            )
        return scheme

    @classmethod
    def _read(cls, value: Any, wanted: tuple[int, ...] | None) -> Scheme:
        """`parse` without its last check: `wanted` is used only where the value does not tell the stages."""
        if isinstance(value, Scheme):
            return value
        if isinstance(value, str):
            return cls._read_text(value, wanted)
        if isinstance(value, Mapping):
            return cls._read_mapping(value, wanted)
        listed = _listed(value)
        forms = 'a text such as "110-0011", a sequence of 0 and 1, one such sequence per stage, or JSON of these'
        check("a scheme", listed, _is_list(listed), forms)
        parts = [_listed(part) for part in listed]
        if parts and all(_is_list(part) for part in parts):
            bits = tuple(bit for part in parts for bit in part)
            return cls(bits, tuple(len(part) for part in parts))
        if wanted is None:
            advice = 'give `stages`, such as (3, 4), or write it as "110-0011" or [[1, 1, 0], [0, 0, 1, 1]]'
            raise ValueError(f"the flat scheme {short(value)} does not say where its stages end: {advice}")
        return cls(tuple(listed), wanted)

    @classmethod
    def _read_text(cls, text: str, wanted: tuple[int, ...] | None) -> Scheme:
        """A text such as "110-0011", or JSON."""
        text = text.strip()
        if text.startswith(("[", "{", '"')):
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"the scheme {short(text)} looks like JSON but cannot be read: {error}") from None
            return cls._read(value, wanted)
        parts = text.split("-")
        is_written = all(parts) and set("".join(parts)) <= set("01")
        check("a scheme", text, is_written, 'written with 0 and 1 and single dashes between stages, like "110-0011"')
        bits = tuple(character == "1" for part in parts for character in part)
        if len(parts) == 1 and wanted is not None:
            return cls(bits, wanted)
        return cls(bits, tuple(len(part) for part in parts))

    @classmethod
    def _read_mapping(cls, value: Mapping[str, Any], wanted: tuple[int, ...] | None) -> Scheme:
        """{"bits": any other form, "stages": optional}."""
        has_keys = "bits" in value and set(value) <= {"bits", "stages"}
        if not has_keys or isinstance(value["bits"], Mapping):
            keys = short(list(value))
            raise ValueError(f'a scheme given as a mapping needs the key "bits" and may have "stages", got {keys}')
        stages = value.get("stages")
        return cls.parse(value["bits"], wanted if stages is None else stages)

    @classmethod
    def full(cls, stages: Sequence[int]) -> Scheme:
        """Every block connected (Share-full, or Org-full where nothing is shared)."""
        stages = _check_stages(stages)
        return cls((True,) * sum(stages), stages)

    @classmethod
    def none(cls, stages: Sequence[int]) -> Scheme:
        """No block connected (the backbone)."""
        return ~cls.full(stages)

    @classmethod
    def random(cls, stages: Sequence[int], generator: torch.Generator, connected: int | None = None) -> Scheme:
        """Draw a scheme: each bit is 1 with probability ½, or exactly `connected` bits are, uniformly.

        Raises:
            ValueError: if `generator` is no `torch.Generator`, or `connected` is not in 0..blocks.
        """
        stages = _check_stages(stages)
        blocks = sum(stages)
        check("generator", generator, isinstance(generator, torch.Generator), "a torch.Generator")
        if connected is None:
            bits = torch.randint(2, (blocks,), generator=generator, device=generator.device)
        else:
            connected = check_number("connected", connected, high=blocks, whole=True)
            bits = torch.randperm(blocks, generator=generator, device=generator.device) < connected
        return cls(tuple(bits.tolist()), stages)

    @classmethod
    def all_of(cls, stages: Sequence[int]) -> Iterator[Scheme]:
        """All 2^blocks schemes, from 0...00 and 0...01 to 1...11.

        Raises:
            ValueError: above 20 blocks.
        """
        stages = _check_stages(stages)
        blocks = sum(stages)
        limit = f"at most {MAX_ENUMERATED_BLOCKS} blocks where all schemes are listed; draw some with `Scheme.random`"
        check("stages", stages, blocks <= MAX_ENUMERATED_BLOCKS, limit)
        return (cls(bits, stages) for bits in itertools.product((False, True), repeat=blocks))

    @property
    def connected(self) -> int:
        """How many blocks are connected."""
        return sum(self.bits)

    @property
    def sparsity(self) -> float:
        """The fraction of blocks that are not connected, 0 to 1."""
        return 1 - self.connected / len(self.bits)

    @property
    def per_stage(self) -> tuple[tuple[bool, ...], ...]:
        """The bits, one tuple per stage."""
        bits = iter(self.bits)
        return tuple(tuple(itertools.islice(bits, blocks)) for blocks in self.stages)

    def as_tensor(self, device: torch.device | str | None = None) -> torch.Tensor:
        """The bits as a bool tensor of shape (blocks,)."""
        return torch.tensor(self.bits, dtype=torch.bool, device=device)

    def __str__(self) -> str:
        return "-".join("".join(str(int(bit)) for bit in part) for part in self.per_stage)

    def __len__(self) -> int:
        return len(self.bits)

    def __invert__(self) -> Scheme:
        return Scheme(tuple(not bit for bit in self.bits), self.stages)
