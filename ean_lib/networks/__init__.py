"""Residual networks with attention that is shared per stage and connected where a scheme says so.

`contract` says what the rest of the library needs of a network. `resnet` and `build` are the networks of this library,
`plug` puts attention into any other, where `branches` finds a place for it. `connect` is one connection, `batchnorm`
measures BatchNorm statistics anew, `official` reads the authors' checkpoints.
"""

from ean_lib.attention.common import State
from ean_lib.networks.batchnorm import reestimate_batchnorm
from ean_lib.networks.blocks import Block
from ean_lib.networks.branches import Branch, Branches, find_branches
from ean_lib.networks.build import BACKBONES, build_network
from ean_lib.networks.connect import connect
from ean_lib.networks.contract import (
    Chain,
    ChainBlock,
    ChainNetwork,
    Connection,
    Network,
    SchemeLike,
    as_chain,
    attention_modules,
    check_scheme,
    network_dtype,
)
from ean_lib.networks.metrics import Metric, as_classes, start_tally
from ean_lib.networks.modes import eval_mode
from ean_lib.networks.plug import PluggedNetwork, plug
from ean_lib.networks.resnet import AttentionResNet
from ean_lib.networks.scores import check_scores, find_broken
from ean_lib.networks.state_dicts import check_state_dict, mismatches

__all__ = [
    "BACKBONES",
    "AttentionResNet",
    "Block",
    "Branch",
    "Branches",
    "Chain",
    "ChainBlock",
    "ChainNetwork",
    "Connection",
    "Metric",
    "Network",
    "PluggedNetwork",
    "SchemeLike",
    "State",
    "as_chain",
    "as_classes",
    "attention_modules",
    "build_network",
    "check_scheme",
    "check_scores",
    "check_state_dict",
    "connect",
    "eval_mode",
    "find_branches",
    "find_broken",
    "mismatches",
    "network_dtype",
    "plug",
    "reestimate_batchnorm",
    "start_tally",
]
