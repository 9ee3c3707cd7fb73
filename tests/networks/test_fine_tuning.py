"""Beginning with trained weights: what is taken, what is left out, what stays frozen."""

from __future__ import annotations

import copy
import urllib.request
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision import models

from ean_lib import Scheme, TrainConfig, build_network, evaluate, load_data, load_record, train
from ean_lib.experiments.task import Task
from ean_lib.learning import fold_constant_gates, gate_moments
from ean_lib.learning.constant_gates import check_foldable
from ean_lib.networks import AttentionResNet, plug
from ean_lib.networks.fine_tuning import head_names
from ean_lib.networks.foreign import create_foreign, torchvision_weights
from ean_lib.runs import save_weights
from tests.tiny import tiny_data

timm = pytest.importorskip("timm")
FOREIGN = "timm:test_resnet"
EXAMPLE = torch.zeros(2, 3, 32, 32)


def plugged(classes: int = 4, **options: object) -> nn.Module:
    return plug(create_foreign(FOREIGN, classes, seed=0), "se", example=EXAMPLE, seed=1, **options)


def ours(classes: int = 4, **options: object) -> AttentionResNet:
    return build_network("resnet20", "se", num_classes=classes, width=8, stages=(1, 1), seed=0, **options)


@pytest.mark.parametrize("build", [plugged, ours])
def test_frozen_parameters_and_batchnorm_statistics_stay_equal_to_the_bit_after_five_epochs(build):
    net = build()
    net.freeze_backbone()
    before = copy.deepcopy(net.state_dict())
    config = TrainConfig(epochs=5, batch_size=20, lr=0.05, precision="fp32")
    train(net, tiny_data(), config, Scheme.full(net.stages), device="cpu", progress=False)
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    assert {"fc.weight", "fc.bias"} <= changed
    assert all("attention" in key or key.startswith("fc.") for key in changed)
    assert any("attention" in key for key in changed)
    assert net.training


@pytest.mark.parametrize("build", [plugged, ours])
def test_a_new_head_keeps_its_own_weights_and_takes_all_others(build):
    source, net = build(classes=7).prune("0" * len(build().scheme)), build()
    head = net.state_dict()["fc.weight"].clone()
    state = {f"module.{key}": value + 1 for key, value in source.state_dict().items()}  # as DataParallel saves
    with pytest.raises(ValueError, match="for 7 classes, this network has 4; take all but the last layer: --new-head"):
        net.load_backbone(state)
    net.load_backbone({"state_dict": state}, new_head=True)
    assert torch.equal(net.state_dict()["fc.weight"], head)
    for key, value in source.state_dict().items():
        if not key.startswith("fc.") and key != "connected":
            assert torch.equal(net.state_dict()[key], value + 1), key


def test_weights_of_another_network_are_refused_and_nothing_is_loaded():
    net = plugged()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="the backbone's weights do not fit this network"):
        net.load_backbone(ours().state_dict(), new_head=True)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "convnext_tiny", "squeezenet1_0"])
def test_the_head_of_a_torchvision_network_is_what_the_number_of_classes_changes(name):
    with torch.device("meta"):
        one, two = (models.get_model(name, num_classes=classes) for classes in (5, 6))
    sizes = {key: value.shape for key, value in one.state_dict().items()}
    changed = {key for key, value in two.state_dict().items() if value.shape != sizes[key]}
    if name == "squeezenet1_0":
        with pytest.raises(ValueError, match="SqueezeNet has no Linear layer"):
            head_names(one)
    else:
        assert {key.rpartition(".")[0] for key in changed} == set(head_names(one))


def test_fine_tuning_from_recorded_weights_begins_with_the_backbones_accuracy(tmp_path):
    """The recorded backbone was trained on three objects; it meets two, with attention that is the identity."""
    run = load_record("cued_shapes").run("seed-0/backbone")
    recorded = run.network()
    save_weights(tmp_path / "backbone.safetensors", recorded.state_dict())
    data = load_data("cued_shapes", subset=64, objects=2)
    expected = evaluate(recorded, data.val, device="cpu")
    shape = {"blocks": (2, 2, 2), "stem_stride": 2, "rd_ratio": 1 / 2}
    task = Task(objects=2, subset=64, weights=str(tmp_path / "backbone.safetensors"), start="identity", **shape)
    net = task.network(data.num_classes, seed=3)
    assert evaluate(net, data.val, Scheme.full(net.stages), device="cpu") == expected
    images = data.val.images[:50].float() / 255
    assert torch.equal(net.eval()(images), recorded(images))
    random = Task(objects=2, weights=task.weights, **shape).network(data.num_classes, seed=3).eval()
    assert not torch.equal(random(images), recorded(images))
    other = plug(recorded, "sge", example=EXAMPLE, start="identity").eval()  # our own networks can be plugged too
    assert torch.equal(other(images), recorded(images))


@pytest.mark.parametrize("backbone", [FOREIGN, "torchvision:resnet18"])
def test_an_identity_start_of_a_librarys_network_is_the_backbone(backbone):
    task = Task(backbone=backbone, attention="dia", start="identity")
    net, bare = task.network(4, seed=2).eval(), create_foreign(backbone, 4, seed=2).eval()
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(net(images), bare(images))
    assert torch.equal(task.network(4, Scheme.none(task.stages), seed=2).eval()(images), bare(images))
    assert net.stages == task.stages


@pytest.mark.parametrize("backbone", ["timm:test_resnet", "torchvision:resnet18", "torchvision:regnet_y_400mf"])
def test_stages_do_not_depend_on_the_size_of_the_images(backbone):
    assert Task(backbone=backbone).stages == Task("image_folder:x", backbone).stages


def test_the_gate_of_an_identity_start_is_what_it_multiplies_with():
    for attention in ("se", "sge", "dia"):
        net = plug(create_foreign(FOREIGN, 4, seed=0), attention, example=EXAMPLE, start="identity", seed=1)
        module = net.attention_modules["stage1"]
        nn.init.normal_(module.strength)
        x = torch.randn(2, len(module.strength), 5, 4)
        gate = module.gate(x)
        gate = gate[:, :, None, None] if gate.ndim == 2 else gate
        if attention == "sge":  # it is another for each position
            assert gate.shape == x.shape
        torch.testing.assert_close(module(x, None)[0], x * gate)
    assert not hasattr(
        plug(create_foreign(FOREIGN, 4, seed=0), "cbam", start="identity").attention_modules["stage1"], "gate"
    )


def test_constant_gates_fold_into_a_plugged_network_whose_branches_end_with_a_batchnorm():
    net = plugged(start="identity").eval()  # every gate is 1
    data = tiny_data()
    check_foldable(net)
    assert all(torch.equal(moments.mean, torch.ones_like(moments.mean)) for moments in gate_moments(net, data.train))
    folded = fold_constant_gates(net, data.train, device="cpu")
    images = torch.randn(3, 3, 16, 16)
    assert torch.equal(folded(images), net(images))
    convnext = plug(create_foreign("timm:test_nfnet", 4, seed=0), "se", example=EXAMPLE)
    with pytest.raises(ValueError, match="a gate is folded into the BatchNorm before it"):
        check_foldable(convnext)


def test_pretrained_weights_without_a_connection_are_one_sentence(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setattr("torch.hub.urlopen", offline)
    message = "torchvision's weights of resnet18 could not be downloaded .*known.*; connect to the network, or fetch"
    for backbone in ("torchvision:resnet18", "resnet18"):
        with pytest.raises(ConnectionError, match=message):
            Task(backbone=backbone, pretrained=True, new_head=True).network(4)

    def no_hub(*_, **__):
        raise FileNotFoundError("cannot find the requested files in the local cache")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", no_hub)
    with pytest.raises(ConnectionError, match=r"timm's weights of test_resnet could not be downloaded .*--weights"):
        Task(backbone=FOREIGN, pretrained=True, new_head=True).network(4)


def test_pretrained_weights_are_taken_but_for_the_head(monkeypatch):
    """Without a download: the library's loader is replaced by one that gives weights drawn here."""
    trained = models.resnet18(num_classes=1000)
    entry = models.get_model_weights("resnet18").DEFAULT
    monkeypatch.setattr(type(entry), "get_state_dict", lambda *_, **__: trained.state_dict())
    assert torch.equal(torchvision_weights("resnet18")["fc.bias"], trained.fc.bias)
    for backbone in ("torchvision:resnet18", "resnet18"):
        with pytest.raises(ValueError, match=r"for 1000 classes, this network has 4; .*--new-head"):
            Task(backbone=backbone, pretrained=True).network(4)
        task = Task(backbone=backbone, pretrained=True, new_head=True)
        assert task.initial_weights == "ResNet18_Weights.IMAGENET1K_V1"
        state = task.network(4).state_dict()
        for key, value in trained.state_dict().items():
            assert key.startswith("fc.") or torch.equal(state[key], value), key
        assert state["fc.weight"].shape[0] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "keras:resnet"}, "unknown library of a backbone 'keras'"),
        ({"backbone": "torchvision:resnet19"}, "unknown network of torchvision 'resnet19'. Did you mean 'resnet1"),
        ({"backbone": "timm:resnet57q"}, "unknown network of timm 'resnet57q'. Did you mean"),
        ({"backbone": "torchvision:densenet121"}, "no residual branch"),
        ({"backbone": FOREIGN, "width": 8}, "width is for this library's own networks"),
        ({"backbone": FOREIGN, "blocks": (1, 1)}, "blocks is for this library's own networks"),
        ({"backbone": "resnet20", "pretrained": True}, "torchvision has no pretrained weights of resnet20"),
        ({"backbone": "timm:resnet18d_nothing", "pretrained": True}, "unknown network of timm"),
        ({"new_head": True}, "new_head leaves a layer out of pretrained or weights"),
        ({"pretrained": True, "weights": "x.pt"}, "pretrained and weights are two ways to begin"),
        ({"freeze": "head"}, "unknown freeze 'head'"),
        ({"start": "zero"}, "unknown start 'zero'"),
        ({"attention_options": ("groups",)}, "must be like groups=8"),
        ({"attention_options": ("rd_ratio=0.5", "rd_ratio=1")}, "each once"),
        ({"attention_options": ("channels=8",)}, "channels is no option"),
        ({"attention_options": ("grups=8",), "attention": "sge"}, "no option 'grups'. Did you mean 'groups'"),
        ({"attention_options": ("rd_ratio=0.5",), "rd_ratio": 0.25}, "rd_ratio is given already"),
        ({"attention": "sge", "attention_module": "a:B"}, "name two modules"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        Task(**options).network(4)


def test_a_missing_file_of_weights_is_named():
    with pytest.raises(FileNotFoundError, match=r"there is no weights file nowhere.pt"):
        Task(weights="nowhere.pt").network(4)
