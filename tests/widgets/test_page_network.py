"""A network as a file for the page: what Python computes with it, and JavaScript."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import torch
from handwritten import Tangle, handwritten
from torch import nn

from ean_lib import Scheme, build_network, grad_cam, load_record
from ean_lib.data import load_data
from ean_lib.networks import eval_mode
from ean_lib.supernet import Scorer
from ean_lib.supernet.prefix_walk import PrefixWalk
from ean_lib.widgets.modules import JS
from ean_lib.widgets.page_network import PackedNetwork, Tensors, pack_network, quantise

SIZE = (16, 16)
STATISTICS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "image_size": SIZE}
NETWORKS = {
    "se": ("resnet20", {"attention": "se", "attention_kwargs": {"rd_ratio": 0.5}}),
    "sge": ("resnet20", {"attention": "sge"}),
    "dia": ("resnet20", {"attention": "dia", "attention_kwargs": {"rd_ratio": 0.25}}),
    "own modules": ("resnet20", {"attention": "se", "share": "none"}),
    "no attention": ("resnet20", {}),
    "bottleneck and ImageNet's stem": ("resnet50", {"attention": "dia", "stages": (2, 1, 1, 1)}),
}


def network(name: str) -> nn.Module:
    """Such a network, with gates, statistics and scores that differ between images."""
    backbone, options = NETWORKS[name]
    net = build_network(backbone, num_classes=5, width=8, seed=0, **({"stages": (2, 2, 1)} | options))
    generator = torch.Generator().manual_seed(1)
    for part, parameter in net.named_parameters():
        if ".attention." in part or part.startswith("fc."):
            nn.init.normal_(parameter, 0, 1, generator=generator)
        elif parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
    return net


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(2))


def normalised(x: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(STATISTICS[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (x - mean) / std


def packed_of(name: str) -> dict:
    return pack_network(network(name), class_names=[*"abcde"], calibration=normalised(images(40)), **STATISTICS)


def schemes_of(name: str) -> list[Scheme]:
    stages = network(name).stages
    none = Scheme.none(stages)
    if name == "no attention":
        return [none]
    generator = torch.Generator().manual_seed(3)
    return [none, Scheme.full(stages), *(Scheme.random(stages, generator) for _ in range(4))]


def run_in_node(folder, packed: dict, pictures: torch.Tensor, schemes: list[Scheme]) -> list:
    """What network.js gives for each picture and scheme: scores, gates, features."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    shutil.copy(JS / "network.js", folder / "network.mjs")
    asked = {"packed": packed, "pictures": pictures.flatten(1).tolist(), "schemes": [str(s) for s in schemes]}
    (folder / "asked.json").write_text(json.dumps(asked))
    script = """
        import { readFileSync } from "node:fs";
        import { PageNetwork } from "./network.mjs";
        const { packed, pictures, schemes } = JSON.parse(readFileSync("asked.json"));
        const network = new PageNetwork(packed);
        const answers = pictures.map((values) => {
            const picture = Float32Array.from(values);
            return schemes.map((scheme) => {
                const { scores, gates, features } = network.look(picture, scheme.replaceAll("-", ""));
                const shown = gates.map((gate) => gate && [...gate]);
                const map = [...network.activationMap(features, 1)];
                return { scores: [...scores], gates: shown, features, values: [...features.values], map };
            });
        });
        console.log(JSON.stringify(answers));
    """
    done = subprocess.run([node, "--input-type=module", "-e", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_page_computes_what_python_computes_on_the_same_8_bit_weights(name, tmp_path):
    packed, pictures, schemes = packed_of(name), images(3), schemes_of(name)
    answers = run_in_node(tmp_path, packed, pictures, [*schemes, *reversed(schemes)])
    loaded = PackedNetwork(json.loads(json.dumps(packed)))
    for n, of_picture in enumerate(answers):
        for scheme, answer in zip([*schemes, *reversed(schemes)], of_picture, strict=True):
            scores = loaded(normalised(pictures[n : n + 1]), scheme)[0]
            difference = (torch.tensor(answer["scores"]) - scores).abs().max()
            assert difference <= 1e-3, (scheme, float(difference))
            assert max(range(5), key=answer["scores"].__getitem__) == int(scores.argmax())
            assert [gate is not None for gate in answer["gates"]] == list(scheme.bits)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_holds_the_8_bit_network_with_the_statistics_that_the_scorer_measures(name):
    """Up to the 16 bits of BatchNorm's factors."""
    net, x = network(name), normalised(images(40))
    loaded = PackedNetwork(packed_of(name))
    small = quantise(net, Tensors())
    for scheme in schemes_of(name):
        walk = PrefixWalk(small, [scheme])
        walk.calibrate(x)
        with torch.no_grad():
            ((_, expected),) = walk(x[:8])
        scores = loaded(x[:8], scheme)
        assert (scores - expected).abs().max() <= 0.02 * expected.abs().max()


class Last(nn.Module):
    """What follows the last block."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.block, self.weight = nn.Identity(), weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x).mean((2, 3)) @ self.weight.T


def test_the_pages_map_is_grad_cams_at_the_last_block(tmp_path):
    packed, schemes = packed_of("se"), schemes_of("se")[:3]
    loaded = PackedNetwork(packed)
    last = Last(loaded.tensors["fc"] * loaded.tensors["fc.scale"][:, None])
    for of_picture in run_in_node(tmp_path, packed, images(10), schemes):
        for answer in of_picture:
            shape = [1] + [answer["features"][key] for key in ("channels", "height", "width")]
            features = torch.tensor(answer["values"]).view(shape)
            expected = grad_cam(last, features, 1, "block")[0]
            torch.testing.assert_close(torch.tensor(answer["map"]).view_as(expected), expected, rtol=0, atol=1e-3)


def test_without_calibration_the_networks_own_statistics_stay():
    net = network("se").eval()
    x = normalised(images(8))
    loaded = PackedNetwork(pack_network(net, class_names=[*"abcde"], **STATISTICS))
    small = quantise(net, Tensors())
    with torch.no_grad(), eval_mode(small):
        for scheme in schemes_of("se"):
            expected = small(x, scheme)
            assert (loaded(x, scheme) - expected).abs().max() <= 0.01 * expected.abs().max()


def test_the_recorded_supernet_loses_nothing_as_a_file(tmp_path):
    """cued_shapes: 8 bits a weight, 63 prefixes; the accuracies of three schemes within 0.2 points."""
    net = load_record("cued_shapes").network("seed-0/supernet")
    data = load_data("cued_shapes")
    scorer = Scorer(net, data, recalibrate=500)
    packed = pack_network(
        net, class_names=data.class_names, mean=data.mean, std=data.std, image_size=data.image_size,
        calibration=scorer._calibration.cpu(),
    )  # fmt: skip
    assert len(json.dumps(packed)) < 350_000
    loaded = PackedNetwork(packed)
    schemes = [Scheme.parse(text) for text in ("10-00-00", "00-00-01", "11-11-11")]
    for scheme, expected in zip(schemes, scorer(schemes), strict=True):
        hits = sum(int((loaded(x, scheme).argmax(1) == y).sum()) for x, y in data.val.batches(500))
        assert abs(100 * hits / len(data.val) - expected) <= 0.2
    some, _ = next(iter(data.val.batches(12)))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    answers = run_in_node(tmp_path, packed, some * std + mean, schemes)
    for n, of_picture in enumerate(answers):
        for scheme, answer in zip(schemes, of_picture, strict=True):
            scores = loaded(some[n : n + 1], scheme)[0]
            torch.testing.assert_close(torch.tensor(answer["scores"]), scores, rtol=0, atol=1e-3)
            assert max(range(len(scores)), key=answer["scores"].__getitem__) == int(scores.argmax())


def test_what_a_page_cannot_compute_with_is_refused_in_a_sentence():
    classes = {"class_names": [*"abcde"]} | STATISTICS
    with pytest.raises(ValueError, match="the network of a page must be made by build_network, got 'Tangle'"):
        pack_network(handwritten(Tangle), **classes)
    with pytest.raises(ValueError, match="se, sge, dia, not with ECA"):
        pack_network(build_network("resnet20", "eca", num_classes=5), **classes)
    with pytest.raises(ValueError, match="the number of class names must be 5, got 2"):
        pack_network(network("se"), **classes | {"class_names": ["a", "b"]})
    with pytest.raises(ValueError, match="the number of schemes must be at most 256, or give `schemes`"):
        deep = build_network("resnet20", "se", num_classes=5, width=8)
        pack_network(deep, calibration=normalised(images(4)), **classes)
    packed = packed_of("no attention")
    with pytest.raises(ValueError, match="damaged"):
        PackedNetwork(packed | {"data": packed["data"].replace("A", "B", 1)})
    with pytest.raises(ValueError, match="format"):
        PackedNetwork(packed | {"format": 2})


def test_of_a_deeper_network_the_prefixes_of_chosen_schemes_are_kept():
    net = build_network("resnet20", "se", num_classes=5, width=8, seed=0)
    schemes = [Scheme.parse("100-000-000"), Scheme.parse("111-111-111")]
    packed = pack_network(
        net, class_names=[*"abcde"], calibration=normalised(images(8)), schemes=schemes, **STATISTICS
    )  # fmt: skip
    assert packed["prefixes"][3] == ["100", "111"]
    assert PackedNetwork(packed)(normalised(images(2)), "010-000-000").isfinite().all()


def test_the_module_is_small():
    assert (JS / "network.js").stat().st_size < 15_000
