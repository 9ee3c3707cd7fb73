"""Where residual branches end, found by watching a network compute."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import densenet121, get_model
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from ean_lib.networks import find_branches

EXAMPLE = torch.zeros(2, 3, 64, 64)


class Residual(nn.Module):
    """x + f(x) with one convolution; `kind` says how the sum is written."""

    def __init__(self, channels: int, kind: str = "plus") -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.kind = kind
        self.calls = 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        for _ in range(self.calls - 1):
            y = self.conv(y)
        if self.kind == "plus":
            return x + y
        if self.kind == "in place":
            y += x
            return y
        if self.kind == "torch.add":
            return torch.add(y, x)
        if self.kind == "scaled":
            return x + 0.2 * y
        return torch.relu(y) + x  # "function": the branch ends in an operation


def small(*blocks: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def test_the_branches_of_a_torchvision_resnet_end_in_the_last_batchnorm_of_each_block():
    branches = find_branches(ResNet(Bottleneck, [2, 1, 1, 1]), EXAMPLE)
    assert branches.names == ["layer1.0.bn3", "layer1.1.bn3", "layer2.0.bn3", "layer3.0.bn3", "layer4.0.bn3"]
    assert branches.stages == (2, 1, 1, 1)
    assert [branch.channels for branch in branches] == [256, 256, 512, 1024, 2048]
    assert [branch.shortcut for branch in branches] == [
        "projection",
        "identity",
        "projection",
        "projection",
        "projection",
    ]
    assert [branch.block for branch in branches][:2] == ["layer1.0", "layer1.1"]
    assert branches[0].size == (16, 16)


@pytest.mark.parametrize("kind", ["plus", "in place", "torch.add", "scaled"])
def test_a_sum_is_found_however_it_is_written(kind):
    assert find_branches(small(Residual(8, kind)), EXAMPLE).names == ["1.conv"]


def test_a_branch_that_ends_in_an_operation_is_left_out_with_the_reason():
    branches = find_branches(small(Residual(8), Residual(8, "function")), EXAMPLE)
    assert branches.names == ["1.conv"]
    assert "ends in an operation" in branches.left_out["the sum in 2"]


def test_a_layer_that_is_called_twice_is_left_out_with_the_number():
    twice = Residual(8)
    twice.calls = 2
    branches = find_branches(small(Residual(8), twice), EXAMPLE)
    assert branches.names == ["1.conv"]
    assert branches.left_out["2.conv"] == "it is called 2 times in one forward pass"


def test_a_block_without_a_shortcut_and_the_stem_are_no_branches():
    names = find_branches(get_model("mobilenet_v2", weights=None), EXAMPLE).names
    assert "features.2.conv.3" not in names  # it changes the number of channels: no shortcut
    assert names[0] == "features.3.conv.3"


def test_a_sum_inside_a_branch_is_left_out():
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(8, 4, 1)
            self.inner = Residual(4)
            self.last = nn.Conv2d(4, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.last(self.inner(self.first(x)))

    branches = find_branches(small(Nested()), EXAMPLE)
    assert branches.names == ["1.last"]
    assert branches.left_out["1.inner.conv"] == "its sum is inside the branch that ends in 1.last"


def test_a_skip_around_whole_blocks_is_left_out_and_the_blocks_stay():
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(Residual(8), Residual(8), nn.Conv2d(8, 8, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(x)

    branches = find_branches(small(Around()), EXAMPLE)
    assert branches.names == ["1.body.0.conv", "1.body.1.conv"]
    assert "spans other blocks (2 of them)" in branches.left_out["1.body.2"]


def test_a_network_that_concatenates_is_refused_and_told_so():
    with pytest.raises(ValueError, match=r"DenseNet has no residual branch .* concatenate \(62 times\)"):
        find_branches(densenet121(weights=None), EXAMPLE)


def test_tokens_and_channels_last_maps_are_refused_with_the_layout():
    with pytest.raises(ValueError, match=r"channels-last maps \(B, H, W, C\)"):
        find_branches(get_model("swin_t", weights=None), EXAMPLE)

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.mlp = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            return (x + self.mlp(x)).mean(1)

    with pytest.raises(ValueError, match=r"tokens \(B, N, C\)"):
        find_branches(Tokens(), EXAMPLE)


def test_a_network_that_never_adds_is_refused():
    with pytest.raises(ValueError, match="never adds"):
        find_branches(small(), EXAMPLE)


def test_what_cannot_be_run_is_answered_in_words():
    with pytest.raises(ValueError, match=r"cannot be run on an example of shape \(2, 1, 64, 64\)"):
        find_branches(small(Residual(8)), EXAMPLE[:, :1])
    with pytest.raises(ValueError, match="a batch of images"):
        find_branches(small(Residual(8)), EXAMPLE[0])
    with pytest.raises(ValueError, match=r"a torch.nn.Module"):
        find_branches(lambda x: x, EXAMPLE)


def test_the_network_is_left_as_it_was():
    net = ResNet(BasicBlock, [1, 1, 1, 1]).train()
    net.layer1.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    find_branches(net, EXAMPLE)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
