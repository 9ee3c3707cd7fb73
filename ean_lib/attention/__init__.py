"""Attention modules by name: `create_attention("se", channels=64)`.

Every module is called as `y, state = module(x, state)`. `y` has the shape and dtype of `x` (B, C, H, W).
`state` is what a module hands on to the next connected block of its stage (DIA's LSTM state), None at the
start of a stage; modules without one pass it through. Statistics are taken in float32 (float64 for float64
input), so that half precision is safe.
"""

# The imports of the modules register them.
from ean_lib.attention.cbam import CBAM
from ean_lib.attention.dia import DIA
from ean_lib.attention.eca import ECA
from ean_lib.attention.identity_start import IdentityStart
from ean_lib.attention.registry import create_attention, list_attentions, register_attention
from ean_lib.attention.se import SE
from ean_lib.attention.sge import SGE

__all__ = [
    "CBAM",
    "DIA",
    "ECA",
    "SE",
    "SGE",
    "IdentityStart",
    "create_attention",
    "list_attentions",
    "register_attention",
]
