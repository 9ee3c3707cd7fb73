"""Residual networks with attention that is shared per stage and connected where a scheme says so."""

from ean_lib.attention.common import State
from ean_lib.networks.resnet import (
    BACKBONES,
    AttentionResNet,
    Block,
    build_network,
    check_state_dict,
    connect,
    eval_mode,
    mismatches,
)

__all__ = [
    "BACKBONES",
    "AttentionResNet",
    "Block",
    "State",
    "build_network",
    "check_state_dict",
    "connect",
    "eval_mode",
    "mismatches",
]
