"""How the schemes of a supernet's training steps are drawn."""

from collections.abc import Callable

import torch

from ean_lib.schemes import Scheme

Sampler = Callable[[tuple[int, ...], torch.Generator], list[Scheme]]


def uniform(stages: tuple[int, ...], generator: torch.Generator) -> list[Scheme]:
    """One scheme per step, each bit on with probability 1/2 (EAN)."""
    return [Scheme.random(stages, generator)]


def complementary(stages: tuple[int, ...], generator: torch.Generator) -> list[Scheme]:
    """A scheme and its complement, each on half of the batch: every connection is trained at every step."""
    scheme = Scheme.random(stages, generator)
    return [scheme, ~scheme]


def sandwich(stages: tuple[int, ...], generator: torch.Generator) -> list[Scheme]:
    """The full scheme, none, and two random ones, each on a quarter of the batch (Yu & Huang 2019)."""
    middle = [Scheme.random(stages, generator) for _ in range(2)]
    return [Scheme.full(stages), Scheme.none(stages), *middle]


SAMPLERS: dict[str, Sampler] = {"uniform": uniform, "complementary": complementary, "sandwich": sandwich}

# Each of a step's schemes gets its share of the batch, so a batch has at least so many images on each process.
SCHEMES_PER_STEP = {"uniform": 1, "complementary": 2, "sandwich": 4}
