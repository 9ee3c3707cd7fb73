"""Attention plugged into networks of others."""

import copy
import pickle
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, ResNet

from ean_lib import Scheme, build_network
from ean_lib.learning import grad_cam, measure
from ean_lib.networks import Network, as_chain, plug
from ean_lib.supernet.one_by_one import OneByOne
from ean_lib.supernet.prefix_walk import PrefixWalk

STAGES = (2, 1, 1, 1)
EXAMPLE = torch.zeros(2, 3, 32, 32)


def images(count: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


class Checkpointed(ResNet):
    """torchvision's ResNet, whose blocks can be computed again in the backward pass."""

    reentrant: bool | None = None  # None: nothing is computed again

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for block in [*self.layer1, *self.layer2, *self.layer3, *self.layer4]:
            x = block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def backbone(seed: int = 0) -> Checkpointed:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Checkpointed(BasicBlock, list(STAGES), num_classes=5)


def plugged(attention: str = "dia", **options: object) -> nn.Module:
    return plug(backbone(), attention, example=EXAMPLE, seed=1, **options)


@pytest.mark.parametrize("attention", ["se", "sge", "dia"])
@pytest.mark.parametrize("share", ["stage", "none"])
def test_a_plugged_torchvision_resnet_is_our_resnet_values_and_gradients(attention, share):
    ours = build_network("resnet18", attention, share, num_classes=5, blocks=STAGES, seed=1)
    bare = backbone()
    bare.load_state_dict({key: value for key, value in ours.state_dict().items() if ".attention." not in key})
    net = plug(bare, attention, example=EXAMPLE, share=share)
    assert net.stages == STAGES
    for mine, theirs in zip(ours.connections(), net.connections(), strict=True):
        theirs.module.load_state_dict(mine.module.state_dict())
    generator = torch.Generator().manual_seed(0)
    for training in (True, False):
        for _ in range(5):
            scheme = Scheme.random(STAGES, generator)
            one, two = copy.deepcopy(ours).train(training), copy.deepcopy(net).train(training)
            expected, got = one(images(), scheme), two(images(), scheme)
            assert torch.equal(expected, got)
            assert torch.equal(net.prune(scheme).train(training)(images()), got)
            gated = copy.deepcopy(net).train(training)(images(), scheme.as_tensor())
            torch.testing.assert_close(gated, got, rtol=0, atol=1e-5)
            expected.square().sum().backward()
            got.square().sum().backward()
            gradients = {key.removeprefix("backbone."): value.grad for key, value in two.named_parameters()}
            for key, value in one.named_parameters():
                if ".attention." not in key:
                    assert torch.equal(value.grad, gradients[key]), key


def test_nothing_connected_is_the_backbone_to_the_bit_in_values_and_gradients():
    bare, net = backbone(), plugged("se")
    expected, got = bare(images()), net(images(), Scheme.none(STAGES))
    assert torch.equal(expected, got)
    expected.sum().backward()
    got.sum().backward()
    for mine, theirs in zip(bare.parameters(), net.backbone.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


@pytest.mark.parametrize("attention", ["se", "sge", "dia", "eca", "cbam"])
def test_an_identity_start_changes_nothing_at_first_and_learns(attention):
    bare, net = backbone().eval(), plugged(attention, start="identity").eval()
    assert torch.equal(net(images()), bare(images()))
    net(images()).square().sum().backward()
    strengths = [value.grad for key, value in net.named_parameters() if key.endswith("strength")]
    assert strengths and all(gradient.abs().sum() > 0 for gradient in strengths)


def test_the_backbones_keys_stay_as_they_are_and_a_saved_state_brings_its_scheme():
    net = plugged("se", scheme="10-1-0-1")
    own = {key for key in net.state_dict() if key.startswith("attention_modules.") or key == "connected"}
    assert set(net.state_dict()) - own == set(backbone().state_dict())
    other = plug(backbone(3), "se", example=EXAMPLE, seed=5)
    other.load_state_dict(net.state_dict())
    assert other.scheme == Scheme.parse("10-1-0-1")
    assert torch.equal(other.eval()(images()), net.eval()(images()))


def test_copies_and_pickles_are_networks_of_their_own():
    net = plugged().eval()
    expected = net(images())
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(images()), expected)
        nn.init.zeros_(other.attention_modules["stage1"].ih[0].weight)
        assert not torch.equal(other(images()), expected)
    assert torch.equal(net(images()), expected)


def test_the_network_that_was_given_stays_bare_and_so_does_the_backbone_called_directly():
    bare = backbone().eval()
    expected = bare(images())
    net = plug(bare, "se", example=EXAMPLE).eval()
    assert torch.equal(bare(images()), expected)
    assert torch.equal(net.backbone(images()), expected)
    assert not torch.equal(net(images()), expected)
    free = net.unplug()
    assert type(free) is Checkpointed and torch.equal(free(images()), expected)
    assert not any(module._forward_hooks for module in free.modules())


def test_plugging_twice_is_refused():
    with pytest.raises(ValueError, match="plugged into this network already"):
        plug(plugged(), "se", example=EXAMPLE)


def test_an_error_in_the_middle_of_a_forward_leaves_no_pass_behind():
    net = plugged().eval()
    expected, bare = net(images()), net.backbone(images())
    handle = net.backbone.layer3[0].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        net(images())
    handle.remove()
    assert torch.equal(net.backbone(images()), bare)
    assert torch.equal(net(images()), expected)


def test_eight_threads_give_the_answers_of_one():
    net = plugged().eval()
    schemes = [Scheme.random(STAGES, torch.Generator().manual_seed(seed)) for seed in range(8)]
    expected = [net(images(seed=i), scheme) for i, scheme in enumerate(schemes)]
    answers: dict[int, Tensor] = {}

    def work(i: int) -> None:
        for _ in range(3):
            answers[i] = net(images(seed=i), schemes[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(answers[i], expected[i]) for i in range(8))


@pytest.mark.parametrize("attention", ["se", "dia"])
def test_gradient_checkpointing_gives_the_same_gradients_with_two_passes_at_a_time(attention):
    net = plugged(attention).eval()

    def gradients(reentrant: bool | None) -> dict[str, Tensor]:
        net.backbone.reentrant = reentrant
        net.zero_grad()
        one, two = net(images(), "11-1-0-1"), net(images(seed=1), "01-0-1-1")
        (one.square().sum() + 2 * two.square().sum()).backward()
        return {key: value.grad.clone() for key, value in net.named_parameters() if value.grad is not None}

    expected, again = gradients(None), gradients(False)
    assert expected.keys() == again.keys()
    assert all(torch.equal(expected[key], again[key]) for key in expected)


def test_reentrant_checkpointing_of_a_module_with_a_state_is_refused():
    net = plugged("dia")
    net.backbone.reentrant = True
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        net(images().requires_grad_())


def test_a_replica_of_data_parallel_uses_its_own_modules():
    net = plugged("se").eval()
    # What torch.nn.parallel.replicate does on GPUs: shallow copies that share the hooks, with parameters of their own.
    replicas = {module: module._replicate_for_data_parallel() for module in net.modules()}
    for module, replica in replicas.items():
        for key, child in module._modules.items():
            replica._modules[key] = replicas.get(child)
        for key, parameter in module._parameters.items():
            replica._parameters[key] = None if parameter is None else parameter.detach().clone()
    replica = replicas[net]
    assert torch.equal(replica(images()), net(images()))
    replica.attention_modules["stage1"].fc2._parameters["bias"] += 1
    assert not torch.equal(replica(images()), net(images()))


def test_export_gives_one_graph_for_all_schemes():
    net = plugged("dia").eval()
    bits = Scheme.parse("10-1-0-1").as_tensor()
    program = torch.export.export(net, (images(), bits)).module()
    other = Scheme.parse("01-1-1-0").as_tensor()
    torch.testing.assert_close(program(images(seed=1), other), net(images(seed=1), other), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True])
def test_onnxruntime_computes_the_same_for_another_scheme_and_another_number_of_images(tmp_path, dynamo):
    onnxruntime = pytest.importorskip("onnxruntime")
    net = plugged("dia").eval()
    bits = Scheme.parse("10-1-0-1").as_tensor()
    sizes = {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC}, None)}
    if not dynamo:
        sizes = {"dynamic_axes": {"images": {0: "batch"}}}
    file = str(tmp_path / "net.onnx")
    names = ["images", "connected"]
    torch.onnx.export(net, (images(), bits), file, input_names=names, dynamo=dynamo, verbose=False, **sizes)
    other = Scheme.parse("01-1-1-0").as_tensor()
    inputs = {"images": images(5).numpy(), "connected": other.numpy()}
    scores = onnxruntime.InferenceSession(file).run(None, inputs)[0]
    torch.testing.assert_close(torch.from_numpy(scores), net(images(5), other).detach(), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_compile_takes_the_whole_graph_and_follows_the_tensor():
    net = plugged("dia").eval()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for text in ("10-1-0-1", "01-1-1-0"):
        bits = Scheme.parse(text).as_tensor()
        torch.testing.assert_close(compiled(images(), bits), net(images(), bits), rtol=0, atol=1e-5)
    assert torch.equal(net.backbone(images()), net(images(), Scheme.none(STAGES)))


@pytest.mark.parametrize("attention", ["se", "sge", "dia"])
def test_a_fused_network_has_no_batchnorm_left_and_gives_the_same(attention):
    net = plugged(attention)
    net(images(8))  # statistics that are not 0 and 1
    net.eval()
    fused = net.fuse()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    for scheme in ("11-1-1-1", "01-0-1-0"):
        torch.testing.assert_close(fused(images(), scheme), net(images(), scheme), rtol=0, atol=1e-4)


def test_a_batchnorm_that_does_not_follow_its_convolution_is_not_folded():
    class Between(BasicBlock):
        def forward(self, x: Tensor) -> Tensor:
            y = self.bn2(torch.relu(self.conv2(self.bn1(self.conv1(x)))))
            return y + x

    net = plug(nn.Sequential(nn.Conv2d(3, 8, 1), Between(8, 8)), "se", example=EXAMPLE).eval()
    fused = net.fuse()
    assert [name for name, module in fused.named_modules() if isinstance(module, nn.BatchNorm2d)] == ["backbone.1.bn2"]
    torch.testing.assert_close(fused(images()), net(images()))


@pytest.mark.parametrize("attention", ["se", "dia"])
def test_the_chain_gives_what_each_scheme_alone_gives_to_the_bit_with_own_statistics_too(attention):
    net = plugged(attention).eval().requires_grad_(False)
    assert isinstance(net, Network)
    chain = as_chain(net)
    assert [block.index for block in chain.blocks] == [0, 1, 2, 3, 4]
    schemes = list(Scheme.all_of(STAGES))
    walk, alone = PrefixWalk(net, schemes, chain), OneByOne(net, schemes)
    for calibrate in (False, True):
        if calibrate:
            walk.calibrate(images(8, seed=2))
            alone.calibrate(images(8, seed=2))
        one, other = dict(walk(images())), dict(alone(images()))
        assert all(torch.equal(one[scheme], other[scheme]) for scheme in schemes)


def test_the_chain_takes_images_of_another_size_than_the_example():
    net = plugged("se").eval().requires_grad_(False)
    schemes = [Scheme.parse("10-1-0-1"), Scheme.parse("11-1-0-1")]
    larger = torch.randn(2, 3, 48, 40)
    walked = dict(PrefixWalk(net, schemes)(larger))
    assert all(torch.equal(walked[scheme], net(larger, scheme)) for scheme in schemes)


def test_features_that_go_round_a_block_make_no_chain():
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block = nn.Conv2d(3, 8, 1), BasicBlock(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return torch.cat([x, self.block(x)], dim=1).mean((2, 3))

    net = plug(Around(), "se", example=EXAMPLE)
    assert as_chain(net) is None


def test_branches_are_chosen_by_name_or_pattern_and_a_mistyped_name_gets_its_close_match():
    assert plugged("se", branches=["layer1.*.bn2", "layer3.0.bn2"]).branches == [
        "layer1.0.bn2", "layer1.1.bn2", "layer3.0.bn2"
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"no module 'layer1.0.bn9'. Did you mean .*'layer1.0.bn[12]'"):
        plugged("se", branches="layer1.0.bn9")
    with pytest.raises(ValueError, match=r"one map of features, \(B, C, H, W\)"):
        plugged("se", branches="fc")
    with pytest.raises(ValueError, match="called several times"):
        plugged("se", branches="layer1.0.relu")


def test_stages_can_be_given_and_must_fit():
    net = plugged("se", stages=(1, 1, 1, 1, 1))
    assert net.stages == (1, 1, 1, 1, 1) and len(net.attention_modules) == 5
    with pytest.raises(ValueError, match="add up to 5"):
        plugged("se", stages=(2, 2))
    with pytest.raises(ValueError, match="the same for all branches of a stage"):
        plugged("se", stages=(3, 2))


def test_the_summary_says_what_sharing_saves():
    text = plugged("se").summary()
    per_stage = [sum(p.numel() for p in c.module.parameters()) for c in plugged("se").connections()][1:]
    shared = sum(per_stage)
    assert f"{shared:,} parameters; {shared + per_stage[0]:,} with a module for every block" in text


def test_measure_and_grad_cam_take_a_plugged_network():
    net = plugged("se").eval()
    cost = measure({"plugged": net}, net.unplug(), (2, 3, 32, 32), device="cpu", rounds=1)["plugged"]
    assert cost.extra_parameters == sum(p.numel() for p in net.attention_modules.parameters())
    maps = grad_cam(net, images(), [0, 1, 2], net.block_modules()[-1])
    assert maps.shape[0] == 3 and maps.isfinite().all()


def test_a_seed_gives_the_same_modules_and_leaves_torchs_generator_alone():
    state = torch.get_rng_state()
    one, two = plugged("se"), plugged("se")
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
