"""The authors' ResNet-50 checkpoints, and the schemes that they published.

The official code names the parts of the network differently, and gives every convolution a bias. A
BatchNorm follows each of these convolutions and subtracts a mean, so that the bias changes nothing but that
mean: with running_mean - bias in place of running_mean, the network without biases computes the same.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ean_lib.checks import check, check_choice
from ean_lib.networks import AttentionResNet, build_network, mismatches
from ean_lib.schemes import Scheme

# From the official code, for ResNet-50 on ImageNet. SE's stands in a comment there, so it is only probable.
PUBLISHED_SCHEMES: dict[str, Scheme] = {
    "sge": Scheme.parse("100-1011-010011-011"),
    "dia": Scheme.parse("110-0011-110010-011"),
    "se": Scheme.parse("010-0010-110011-001"),
}

# A key that tells which attention a checkpoint has, and how our names of its parts are spelt there.
_MARKS = {"sge": "layer1.share_fc.weight", "dia": "layer1.lstm.w_ih.0.seq.0.weight", "se": "layer1.share_fc.fc1.weight"}
_PARTS = (
    (r"^fc\.", "last_linear."),
    (r"^(layer\d)\.(\d+)\.", r"\1.ModuleList.\2."),
    (r"\.attention\.(ih|hh)\.(\d)\.", r".lstm.w_\1.0.seq.\2."),
    (r"\.attention\.", ".share_fc."),
)


def published_scheme(attention: str) -> Scheme:
    """The scheme that the authors found for ResNet-50 (blocks 3, 4, 6, 3) with "se", "sge" or "dia".

    Raises:
        ValueError: for another name, with the close matches.
    """
    check_choice("attention module of the authors", attention, PUBLISHED_SCHEMES)
    return PUBLISHED_SCHEMES[attention]


def load_official(state_dict: Mapping[str, Any], attention: str, scheme: Scheme | str | None = None) -> AttentionResNet:
    """Build the ResNet-50 of one of the authors' checkpoints: one attention module per stage.

    Args:
        state_dict: the official weights; the `module.` of a DataParallel may be in front of the keys, and all
            of them may lie under the key "state_dict". A file is read by `ean_lib.runs.load_weights`.
        attention: "se", "sge" or "dia".
        scheme: the blocks connected by default, since checkpoints do not hold it; None connects all. See
            `published_scheme`.

    Returns:
        The network, in eval mode, with the checkpoint's number of classes and the official outputs.

    Raises:
        ValueError: if keys are missing, foreign or of another shape than the official ones.
    """
    published_scheme(attention)
    checkpoint = _named_tensors(state_dict)
    with torch.device("meta"):  # no random weights are drawn: all are replaced below
        net = build_network("resnet50", attention, scheme=scheme, num_classes=_classes_of(checkpoint)).eval()
    expected = {_official(key): value for key, value in net.state_dict().items()}
    bias_of_mean = {key: _bias_before(key) for key in expected if key.endswith("running_mean")}
    for mean, bias in bias_of_mean.items():
        expected[bias] = expected[mean]
    for key in expected:
        if key.endswith("batches_tracked"):
            checkpoint.setdefault(key, torch.tensor(0))  # old checkpoints lack them
    problems = mismatches(checkpoint, expected)
    if problems:
        keys = f"whose keys are like 'layer1.ModuleList.0.conv1.weight' and '{_MARKS[attention]}'"
        what = f"the checkpoint is not an official ResNet-50 with attention {attention!r}"
        raise ValueError(f"{what}, {keys}: {problems}; {_advice(checkpoint, attention)}")
    for mean, bias in bias_of_mean.items():
        checkpoint[mean] = checkpoint[mean].double() - checkpoint[bias].double()
    weights = {key: checkpoint[_official(key)].to(value.dtype, copy=True) for key, value in net.state_dict().items()}
    net.load_state_dict(weights, assign=True)
    return net


def _named_tensors(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint's entries by name, without what torch and DataParallel wrap around them."""
    expected = "a mapping from names to tensors, as `load_weights` gives"
    check("a checkpoint", state_dict, isinstance(state_dict, Mapping), expected)
    inner = state_dict.get("state_dict")
    if isinstance(inner, Mapping):
        state_dict = inner
    return {str(key).removeprefix("module."): value for key, value in state_dict.items()}


def _classes_of(checkpoint: Mapping[str, Any]) -> int:
    """The checkpoint's number of classes; ImageNet's where that cannot be told."""
    head = checkpoint.get("last_linear.weight")
    is_matrix = isinstance(head, Tensor) and head.dim() == 2 and len(head) > 0
    return len(head) if is_matrix else 1000


def _advice(checkpoint: Mapping[str, Any], attention: str) -> str:
    """What a checkpoint that does not fit may be."""
    for name, key in _MARKS.items():
        if key in checkpoint and name != attention:
            return f"it looks like one with attention {name!r}"
    return "the file may be truncated, of another network, or of a run of this library"


def _official(key: str) -> str:
    """The official name of one of our keys."""
    for ours, theirs in _PARTS:
        key = re.sub(ours, theirs, key)
    return key


def _bias_before(mean: str) -> str:
    """The bias of the convolution before the BatchNorm that has this running mean; both names are the official ones."""
    convolution = mean.replace("bn", "conv").replace("downsample.1", "downsample.0")
    return convolution.replace("running_mean", "bias")
