"""The authors' checkpoints: a network in their layout, written here, and ours with its weights agree."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ean_lib.learning.measure import count_parameters
from ean_lib.networks.official import PUBLISHED_SCHEMES, load_official, published_scheme
from ean_lib.runs import load_weights

BACKBONE_WITH_BIASES = 25_583_592
SHARE_FULL = {"se": 26_283_992, "sge": 25_584_104, "dia": 28_384_612}


class SharedSE(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, y):
        return y * self.fc2(self.fc1(y.mean((2, 3), keepdim=True)).clamp(min=0)).sigmoid()


class SharedSGE(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 64, 1, 1))
        self.bias = nn.Parameter(torch.ones(1, 64, 1, 1))

    def forward(self, y):
        parts = []
        for g, group in enumerate(y.chunk(64, dim=1)):
            t = (group * group.mean((2, 3), keepdim=True)).sum(1, keepdim=True)
            deviation = t.flatten(1).std(1).view(-1, 1, 1, 1)
            t = (t - t.mean((2, 3), keepdim=True)) / (deviation + 1e-5)
            parts.append(group * (t * self.weight[:, g] + self.bias[:, g]).sigmoid())
        return torch.cat(parts, 1)


class Map(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.seq = nn.Sequential(
            nn.Linear(channels, channels // 20), nn.ReLU(), nn.Linear(channels // 20, 4 * channels)
        )


class SharedLSTM(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.w_ih = nn.ModuleList([Map(channels)])
        self.w_hh = nn.ModuleList([Map(channels)])

    def forward(self, y, h, c):
        n = y.shape[1]
        gates = self.w_ih[0].seq(y.mean((2, 3))) + self.w_hh[0].seq(h)
        i, f, g, o = gates[:, :n], gates[:, n : 2 * n], gates[:, 2 * n : 3 * n], gates[:, 3 * n :]
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.sigmoid()
        return y * h[:, :, None, None], h, c


class Bottleneck(nn.Module):
    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, stride, 1), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, 4 * planes, 1), nn.BatchNorm2d(4 * planes)
        if inputs != 4 * planes:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, 4 * planes, 1, stride), nn.BatchNorm2d(4 * planes))

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        return self.bn3(self.conv3(y)), self.downsample(x) if hasattr(self, "downsample") else x


class OfficialStage(nn.Module):
    def __init__(self, inputs, planes, depth, stride, attention):
        super().__init__()
        self.ModuleList = nn.ModuleList(
            Bottleneck(inputs if i == 0 else 4 * planes, planes, stride if i == 0 else 1) for i in range(depth)
        )
        if attention == "dia":
            self.lstm = SharedLSTM(4 * planes)
        else:
            self.share_fc = SharedSE(4 * planes) if attention == "se" else SharedSGE()

    def forward(self, x, bits):
        h = c = torch.zeros(len(x), self.ModuleList[0].conv3.out_channels)
        for block, bit in zip(self.ModuleList, bits, strict=True):
            y, shortcut = block(x)
            if bit == "1" and hasattr(self, "lstm"):
                y, h, c = self.lstm(y, h, c)
            elif bit == "1":
                y = self.share_fc(y)
            x = (y + shortcut).relu()
        return x


class OfficialResNet50(nn.Module):
    """ResNet-50 with the names, and the biases, of the authors' code."""

    def __init__(self, attention, num_classes=7):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64)
        self.layer1 = OfficialStage(64, 64, 3, 1, attention)
        self.layer2 = OfficialStage(256, 128, 4, 2, attention)
        self.layer3 = OfficialStage(512, 256, 6, 2, attention)
        self.layer4 = OfficialStage(1024, 512, 3, 2, attention)
        self.last_linear = nn.Linear(2048, num_classes)

    def forward(self, x, bits):
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for stage, part in zip((self.layer1, self.layer2, self.layer3, self.layer4), bits, strict=True):
            x = stage(x, part)
        return self.last_linear(x.mean((2, 3)))


def official(attention):
    """An official network in eval mode whose every parameter and statistic is random."""
    torch.manual_seed(0)
    net = OfficialResNet50(attention).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1)
                module.bias.normal_(std=0.3)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                module.bias.normal_()
            elif isinstance(module, SharedSGE):
                module.weight.normal_()
                module.bias.normal_()
    return net


@pytest.fixture(scope="module")
def se_weights():
    return official("se").state_dict()


@pytest.mark.parametrize("attention", ["se", "sge", "dia"])
def test_an_official_checkpoint_gives_the_official_outputs(attention):
    theirs = official(attention)
    scheme = published_scheme(attention)
    weights = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    before = {key: value.clone() for key, value in weights.items()}
    ours = load_official(weights, attention, scheme)
    assert not ours.training and ours.scheme == scheme and ours.stages == (3, 4, 6, 3)
    assert all(p.requires_grad and p.dtype == torch.float32 and not p.is_meta for p in ours.parameters())
    x = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for bits in (str(scheme), "000-0000-000000-000", "111-1111-111111-111"):
            expected = theirs(x, bits.split("-"))
            assert (ours(x, bits) - expected).abs().max() <= 1e-4 * expected.abs().max()
        assert torch.equal(ours(x), ours(x, scheme))
        assert not torch.allclose(ours(x), ours(x, "111-1111-111111-111"), rtol=0.01)  # the scheme matters
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[key]) for key, value in weights.items())  # the checkpoint is no part of ours
    # With 1000 classes in place of 7 these are the paper's numbers, which count the useless biases.
    head = 2048 * (1000 - 7) + 1000 - 7
    assert count_parameters(theirs) + head == SHARE_FULL[attention]
    assert count_parameters(ours) + head == SHARE_FULL[attention] - 26_560


def test_the_published_schemes_are_those_of_the_official_code():
    assert {name: str(scheme) for name, scheme in PUBLISHED_SCHEMES.items()} == {
        "sge": "100-1011-010011-011",
        "dia": "110-0011-110010-011",
        "se": "010-0010-110011-001",
    }
    assert [PUBLISHED_SCHEMES[name].connected for name in ("sge", "dia", "se")] == [9, 9, 7]
    assert {scheme.stages for scheme in PUBLISHED_SCHEMES.values()} == {(3, 4, 6, 3)}


@pytest.mark.parametrize(
    "name, hint", [("SGE", "Did you mean 'sge'"), ("sea", "Did you mean 'se'"), (None, "Known are: sge, dia, se")]
)
def test_an_unpublished_name_says_which_there_are(name, hint):
    with pytest.raises(ValueError, match=f"unknown attention module of the authors {name!r}.*{hint}"):
        published_scheme(name)
    with pytest.raises(ValueError, match="unknown attention module of the authors"):
        load_official({}, name)


def test_all_blocks_are_connected_where_no_scheme_is_given(se_weights):
    assert str(load_official(se_weights, "se").scheme) == "111-1111-111111-111"


def test_old_checkpoints_without_batch_counters_and_those_under_state_dict_are_read(se_weights):
    old = {key: value for key, value in se_weights.items() if not key.endswith("num_batches_tracked")}
    net = load_official({"epoch": 119, "state_dict": old}, "se")
    expected = load_official(se_weights, "se").state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in net.state_dict().items())


def without(key):
    return lambda weights: {name: value for name, value in weights.items() if name != key}


BAD = {
    "truncated": (
        lambda weights: dict(list(weights.items())[:100]),
        r"missing \(.*, \.\.\.\); the file may be truncated",
    ),
    "one bias missing": (
        without("layer3.ModuleList.4.conv2.bias"),
        r"1 missing \(layer3\.ModuleList\.4\.conv2\.bias\)",
    ),
    "no head": (without("last_linear.weight"), r"1 missing \(last_linear\.weight\)"),
    "one more": (lambda weights: {**weights, "layer5.weight": torch.zeros(1)}, r"1 unknown \(layer5\.weight\)"),
    "other width": (
        lambda weights: {**weights, "conv1.weight": torch.zeros(32, 3, 7, 7)},
        r"1 of another shape \(conv1\.weight is \(32, 3, 7, 7\), expected \(64, 3, 7, 7\)\)",
    ),
    "no tensor": (
        lambda weights: {**weights, "bn1.weight": 3},
        r"1 of another shape \(bn1\.weight is \(\), expected \(64,\)\)",
    ),
    "foreign": (lambda weights: {"encoder.weight": torch.zeros(1)}, "missing .* 1 unknown"),
    "empty": (lambda weights: {}, " missing "),
    "a list": (lambda weights: list(weights), r"must be a mapping from names to tensors, .* got \['conv1\.weight"),
}


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD.keys())
def test_a_checkpoint_that_does_not_fit_says_where(se_weights, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_official(change(se_weights), "se")
    assert len(str(caught.value)) < 700


def test_a_checkpoint_of_another_attention_says_of_which(se_weights):
    with pytest.raises(ValueError, match=r"with attention 'dia', .* it looks like one with attention 'se'"):
        load_official(se_weights, "dia")


def test_a_scheme_of_another_network_is_refused(se_weights):
    with pytest.raises(ValueError, match=r"stages of \(3, 4\) blocks"):
        load_official(se_weights, "se", "110-0011")


def test_a_torchvision_checkpoint_is_refused_with_the_official_names():
    weights = {"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}
    with pytest.raises(ValueError, match=r"keys are like 'layer1\.ModuleList\.0\.conv1\.weight'"):
        load_official(weights, "sge")


def test_checkpoint_files_of_both_kinds_are_read(tmp_path):
    weights = {"conv1.weight": torch.randn(2, 3)}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "official.pth.tar")
    save_file(weights, tmp_path / "official.safetensors")
    read = (load_weights(tmp_path / "official.pth.tar")["state_dict"], load_weights(tmp_path / "official.safetensors"))
    assert all(torch.equal(part["conv1.weight"], weights["conv1.weight"]) for part in read)


class Trap:
    def __reduce__(self):
        return print, ("code from the file ran",)


def test_a_file_with_code_in_it_is_refused_and_the_code_does_not_run(tmp_path, capsys):
    torch.save({"state_dict": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="not a whole file of plain weights"):
        load_weights(tmp_path / "trap.pth")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors", "empty.pth", "text.pth"])
def test_a_broken_file_says_what_is_wrong(tmp_path, name):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "cut.pth")
    save_file({"a": torch.zeros(1000)}, tmp_path / "cut.safetensors")
    for cut in ("cut.pth", "cut.safetensors"):
        (tmp_path / cut).write_bytes((tmp_path / cut).read_bytes()[:700])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("404: not found")
    with pytest.raises(ValueError, match=f"{name} is not a whole"):
        load_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors"])
def test_a_file_that_is_not_there_says_so(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"there is no .*{name}"):
        load_weights(tmp_path / name)
