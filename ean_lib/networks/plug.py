"""Attention in anyone's network: `plug(net, "se")`.

`find_branches` says where the residual branches end. `plug` puts a hook there, which hands f(x) to the attention module
of its stage where the scheme connects the block. So the network's own code runs as it is, and its weights keep their
names. What belongs to one forward pass (the scheme, and a module's state on its way from block to block) is kept in an
object of that pass: threads, replicas of DataParallel, copies and the second forward pass of gradient checkpointing do
not see each other's.
"""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._pytree import tree_leaves

from ean_lib.attention import create_attention
from ean_lib.attention.common import State
from ean_lib.attention.identity_start import IdentityStart, Start
from ean_lib.checks import check, suggest
from ean_lib.networks.branches import Branch, Branches, Recording, find_branches, record
from ean_lib.networks.chain import PluggedChain
from ean_lib.networks.connect import Bit, connect
from ean_lib.networks.contract import Connection, SchemeLike, check_scheme
from ean_lib.networks.fine_tuning import backbone_weights, freeze, head_names
from ean_lib.schemes import Scheme

BACKBONE = "backbone."  # in front of the backbone's names among the parameters, but not in a state_dict
PLUGGED = ("attention_modules.", "connected")  # a state_dict's keys that are not the backbone's


class Pass:
    """One forward pass of a plugged network: its scheme, and the states that its modules hand on.

    Args:
        connections: the places, with the modules of the network (or of the replica) that runs.
        bits: a bool for each, or a 0-d bool tensor.
    """

    def __init__(self, connections: Sequence[Connection], bits: Sequence[Bit]) -> None:
        self.connections = connections
        self.bits = bits
        self.with_gradients = torch.is_grad_enabled()
        self.latest: dict[int, State] = {}  # by stage
        self.before: dict[int, State] = {}  # by place: the state that its module was given

    def attend(self, place: int, y: Tensor) -> Tensor:
        """What the branch that ends at this place hands on, in place of its result y."""
        stage, _, module = self.connections[place]
        # A place that is met again is in the second forward pass of gradient checkpointing: it must see what it saw.
        again = place in self.before
        if not again:
            self.before[place] = self.latest.get(stage)
        y, state = connect(module, self.bits[place], y, self.before[place])
        if state is not None and self.with_gradients and not torch.is_grad_enabled():
            raise RuntimeError(
                "an attention module with a state (such as DIA) cannot be used inside checkpoint(..., "
                "use_reentrant=True), which loses the gradients of the state: use use_reentrant=False"
            )
        if not again:
            self.latest[stage] = state
        return y


class Slot:
    """Where the hooks of one plugged network find the pass that is going on in their thread, if any."""

    def __init__(self) -> None:
        self._thread = threading.local()
        self._compiling: Pass | None = None  # torch.compile follows plain attributes only

    def __reduce__(self) -> Any:  # a copy, in memory or from a file, has no pass going on
        return Slot, ()

    @property
    def current(self) -> Pass | None:
        if torch.compiler.is_dynamo_compiling():
            return self._compiling
        going_on = getattr(self._thread, "forward", None)
        if going_on is None and torch._C._current_graph_task_id() != -1:  # within a backward pass: checkpointing
            going_on = getattr(self._thread, "backward", None)
        return going_on

    @contextmanager
    def running(self, this: Pass) -> Iterator[None]:
        """Within, this pass is going on in this thread."""
        outer = getattr(self._thread, "forward", None)
        self._thread.forward = this
        try:
            yield
        finally:
            self._thread.forward = outer

    def remember(self, this: Pass, output: Any) -> None:
        """When the gradient of the output is there, its pass is the one that checkpointing computes again."""

        def note(_: Tensor) -> None:
            self._thread.backward = this

        for value in tree_leaves(output):  # one tensor, or several, as a detector's backbone gives
            if isinstance(value, Tensor) and value.requires_grad:
                value.register_hook(note)


class BranchHook:
    """The forward hook at the end of a branch. Without a pass going on, the network is the bare backbone."""

    def __init__(self, slot: Slot, place: int) -> None:
        self.slot = slot
        self.place = place

    def __call__(self, module: nn.Module, inputs: Any, y: Tensor) -> Tensor | None:
        going_on = self.slot.current
        return None if going_on is None else going_on.attend(self.place, y)


class PluggedNetwork(nn.Module):
    """A network of any origin whose residual branches can be connected to attention; made by `plug`.

    Attributes:
        backbone: the network itself. Called directly, it computes as it did before.
        stages: blocks per stage.
        scheme: the connections used where `forward` is given none; it is stored with the weights.
        branches: the names of the modules whose outputs are the f(x), one for each bit of a scheme.
    """

    def __init__(
        self, backbone: nn.Module, branches: Sequence[Branch], stages: Sequence[int], modules: nn.ModuleDict,
        example_shape: Sequence[int],
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone = backbone
        self.attention_modules = modules
        self.stages = tuple(stages)
        self.branches = [branch.name for branch in branches]
        self.example_shape = tuple(example_shape)
        self._blocks = [branch.block for branch in branches]
        self._slot = Slot()
        self.register_buffer("connected", torch.ones(len(branches), dtype=torch.bool))
        self._scheme = Scheme.full(self.stages)
        for place, name in enumerate(self.branches):
            backbone.get_submodule(name).register_forward_hook(BranchHook(self._slot, place))
        self.register_state_dict_post_hook(_without_prefix)
        self.register_load_state_dict_pre_hook(_with_prefix)
        self.register_load_state_dict_post_hook(_scheme_from_buffer)

    @property
    def scheme(self) -> Scheme:
        return self._scheme

    @scheme.setter
    def scheme(self, scheme: Scheme | str | Sequence[bool]) -> None:
        self._scheme = Scheme.parse(scheme, self.stages)
        self.connected.copy_(self._scheme.as_tensor())

    def connections(self) -> list[Connection]:
        """The places for attention, in the order in which they are computed."""
        places = []
        for stage, depth in enumerate(self.stages, start=1):
            module = dict(self.attention_modules.items()).get(f"stage{stage}")
            for block in range(depth):
                own = dict(module.items()).get(str(block)) if isinstance(module, nn.ModuleDict) else module
                places.append(Connection(stage, block, own))
        return places

    def block_modules(self) -> list[nn.Module]:
        """For each bit the smallest module that computes the block's sum."""
        return [self.backbone.get_submodule(name) for name in self._blocks]

    def branch_modules(self) -> list[nn.Module]:
        """For each bit the module whose output is f(x), which attention gets."""
        return [self.backbone.get_submodule(name) for name in self.branches]

    def forward(self, x: Tensor, scheme: SchemeLike | None = None) -> Any:
        """What the backbone gives for x, with attention where the scheme connects it.

        Args:
            x: images (B, C, H, W).
            scheme: a Scheme (or its bits), which skips the modules that are not connected; or a bool tensor (blocks,),
                which computes all of them and chooses; None uses ``self.scheme``.
        """
        scheme = check_scheme(self, scheme)
        bits = scheme.bits if isinstance(scheme, Scheme) else scheme.unbind()
        this = Pass(self.connections(), bits)
        if torch.compiler.is_dynamo_compiling():
            self._slot._compiling = this
            output = self.backbone(x)
            self._slot._compiling = None
            return output
        with self._slot.running(this):
            output = self.backbone(x)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._slot.remember(this, output)
        return output

    def chain(self) -> PluggedChain | None:
        """The network as a chain of blocks (see `ean_lib.networks.chain`), or None where it is none."""
        try:
            return PluggedChain(self.backbone, self._blocks, self.branches, self._example())
        except ValueError:
            return None

    def _example(self) -> Tensor:
        parameter = next(self.parameters())
        return torch.zeros(self.example_shape, dtype=parameter.dtype, device=parameter.device)

    def prune(self, scheme: Scheme | str | None = None) -> PluggedNetwork:
        """A copy that is the sparse network of that scheme: attention that no block uses is gone."""
        scheme = self.scheme if scheme is None else Scheme.parse(scheme, self.stages)
        check_scheme(self, scheme)
        net = copy.deepcopy(self)
        for stage, bits in enumerate(scheme.per_stage, start=1):
            key = f"stage{stage}"
            if key not in net.attention_modules:
                continue
            module = net.attention_modules[key]
            if isinstance(module, nn.ModuleDict):
                net.attention_modules[key] = nn.ModuleDict({i: own for i, own in module.items() if bits[int(i)]})
            if not any(bits):
                del net.attention_modules[key]
        net.scheme = scheme
        return net

    def fuse(self) -> PluggedNetwork:
        """A copy for deployment, in eval mode, with BatchNorms folded into the convolutions whose results they take."""
        net = copy.deepcopy(self).eval()
        for convolution, norm in _followed_by_batchnorm(record(net.backbone, net._example())):
            conv, batchnorm = net.backbone.get_submodule(convolution), net.backbone.get_submodule(norm)
            rest = nn.Identity()
            if hasattr(batchnorm, "drop") and hasattr(batchnorm, "act"):  # timm's BatchNorm with an activation
                rest = nn.Sequential(batchnorm.drop, batchnorm.act)
            rest._forward_hooks = batchnorm._forward_hooks  # the end of a branch may be this BatchNorm
            net.backbone.set_submodule(convolution, fuse_conv_bn_eval(conv, batchnorm))
            net.backbone.set_submodule(norm, rest.eval())
        return net

    def load_backbone(self, state_dict: Mapping[str, Tensor], new_head: bool = False) -> None:
        """Take the backbone's weights; attention keeps its own.

        Args:
            state_dict: the weights by name, as the bare network or a plugged one without attention has them.
            new_head: the layer that gives the class scores keeps its own weights too, as for other classes.

        Raises:
            ValueError: if a backbone weight is missing, foreign or of another shape; then nothing is loaded.
        """
        own = {name: value for name, value in self.state_dict().items() if not name.startswith(PLUGGED)}
        weights = backbone_weights(state_dict, own, head_names(self.backbone), new_head)
        self.load_state_dict(weights, strict=False)

    def freeze_backbone(self) -> None:
        """From now on training changes attention and the head only; see `ean_lib.networks.fine_tuning`."""
        freeze(self.backbone, without=[self.backbone.get_submodule(name) for name in head_names(self.backbone)])

    def unplug(self) -> nn.Module:
        """A copy of the backbone as it was before, without attention and hooks."""
        backbone = copy.deepcopy(self).backbone
        for module in backbone.modules():
            for key, hook in list(module._forward_hooks.items()):
                if isinstance(hook, BranchHook):
                    del module._forward_hooks[key]
        return backbone

    def summary(self) -> str:
        """Where attention can be called, how many parameters it has, and what sharing saves."""
        lines = []
        shared, own = 0, 0
        names = iter(self.branches)
        for stage, depth in enumerate(self.stages, start=1):
            mine = [connection.module for connection in self.connections() if connection.stage == stage]
            sizes = {id(m): sum(p.numel() for p in m.parameters()) for m in mine if m is not None}
            shared += sum(sizes.values())
            own += max(sizes.values(), default=0) * depth
            lines.append(f"stage {stage}: {depth} × {', '.join(next(names) for _ in range(depth))}")
        lines.append(f"attention: {shared:,} parameters; {own:,} with a module for every block")
        return "\n".join(lines)


def _without_prefix(net: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: Any) -> None:
    """The backbone's keys in a state_dict are its own, as if nothing had been plugged in."""
    for key in [key for key in state_dict if key.startswith(prefix + BACKBONE)]:
        state_dict[prefix + key.removeprefix(prefix + BACKBONE)] = state_dict.pop(key)


def _with_prefix(net: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """The inverse, before loading."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        if not name.startswith(PLUGGED):
            state_dict[prefix + BACKBONE + name] = state_dict.pop(key)


def _scheme_from_buffer(net: PluggedNetwork, _: Any) -> None:
    """After loading: the default scheme is the one that was stored."""
    net._scheme = Scheme(tuple(net.connected.tolist()), net.stages)


def _followed_by_batchnorm(recording: Recording) -> list[tuple[str, str]]:
    """The names of the convolutions whose result only a BatchNorm takes, with those BatchNorms; each called once."""
    users = Counter(source for operation in recording.operations for source in operation.inputs)
    counts = Counter(call.name for call in recording.calls)
    convolutions = {}
    for call in recording.calls:
        if type(recording.modules[call.name]) is nn.Conv2d and counts[call.name] == 1:
            convolutions[call.result] = call.name
    pairs = []
    for call in recording.calls:
        norm = isinstance(recording.modules[call.name], nn.BatchNorm2d) and counts[call.name] == 1
        if norm and call.source in convolutions and users[call.source] == 1:
            pairs.append((convolutions[call.source], call.name))
    return pairs


def plug(
    net: nn.Module, attention: str, branches: Sequence[str] | str | None = None, example: Tensor | None = None,
    share: Literal["stage", "none"] = "stage", start: Start = "random", *, scheme: Scheme | str | None = None,
    stages: Sequence[int] | None = None, attention_kwargs: Mapping[str, Any] | None = None, seed: int | None = None,
) -> PluggedNetwork:  # fmt: skip
    """Plug attention into the residual branches of any network.

    Args:
        net: the network, for example a pretrained one of timm or torchvision; a copy is plugged, net stays as it is.
        attention: a name of `list_attentions`.
        branches: names of the modules whose results attention is to change, or patterns such as ``layer3.*.bn3``;
            None: where `find_branches` finds that residual branches end.
        example: images (B, C, H, W) as the network takes them; None: two empty ones of 3 × 224 × 224. Only their
            shape matters, and the sizes of the maps that follow from it.
        share: ``"stage"``: one module for all blocks of a stage; ``"none"``: one for each block.
        start: ``"random"``: the module as it is made; a trained network then changes its answers at once.
            ``"identity"``: the network computes at first exactly what it did; see `IdentityStart`.
        scheme: the blocks connected by default; None connects all.
        stages: how many consecutive branches share a module, such as (3, 4, 6, 3), where those of the same channels
            and resolution are not what is wanted.
        attention_kwargs: for the attention module, for example ``{"rd_ratio": 1 / 8}``.
        seed: the modules' weights are drawn from this seed, and torch's generator is left as it was; None draws
            from that.

    Raises:
        ValueError: if the network has no place for attention, is plugged already, or cannot be run on the example; if
            a name or an option is unknown, or the stages do not fit.
    """
    check("share", share, share in ("stage", "none"), "'stage' (one module per stage) or 'none' (one per block)")
    check("start", start, start in ("random", "identity"), "'random' or 'identity'")
    if any(isinstance(module, PluggedNetwork) for module in getattr(net, "modules", list)()):
        raise ValueError("attention is plugged into this network already; use net.unplug(), and plug that")
    if example is None:
        parameter = next(net.parameters(), torch.empty(0))
        example = torch.zeros(2, 3, 224, 224, dtype=parameter.dtype, device=parameter.device)
    places: Sequence[Branch]
    if branches is None:
        places = find_branches(net, example)
    else:
        places = _named_branches(net, example, [branches] if isinstance(branches, str) else branches)
    stages = Branches(tuple(places)).stages if stages is None else tuple(stages)
    _check_stages(places, stages)
    widths = _channels_of_stages(places, stages)

    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        modules = nn.ModuleDict()
        for stage, (depth, channels) in enumerate(zip(stages, widths, strict=True), start=1):
            if share == "stage":
                modules[f"stage{stage}"] = _attention(attention, channels, start, attention_kwargs)
                continue
            own = {str(block): _attention(attention, channels, start, attention_kwargs) for block in range(depth)}
            modules[f"stage{stage}"] = nn.ModuleDict(own)
    first = next(net.parameters(), None)
    if first is not None:
        modules.to(first.device, first.dtype)
    plugged = PluggedNetwork(copy.deepcopy(net), places, stages, modules.train(net.training), example.shape)
    if first is not None:
        plugged.connected = plugged.connected.to(first.device)
    plugged.training = net.training
    if scheme is not None:
        plugged.scheme = scheme
    return plugged


def _attention(name: str, channels: int, start: Start, keywords: Mapping[str, Any] | None) -> nn.Module:
    module = create_attention(name, channels, **(keywords or {}))
    return IdentityStart(module, channels) if start == "identity" else module


def _named_branches(net: nn.Module, example: Tensor, patterns: Sequence[str]) -> list[Branch]:
    """The modules of those names or patterns, in the order in which they are called; each once, giving a map."""
    known = [name for name, _ in net.named_modules() if name]
    chosen: set[str] = set()
    for pattern in patterns:
        matching = [name for name in known if fnmatchcase(name, pattern)]
        if not matching:
            raise ValueError(f"{type(net).__name__} has no module {pattern!r}. {suggest(pattern, known[:50] + known)}")
        chosen.update(matching)
    recording = record(net, example)
    places = []
    for call in recording.calls:
        if call.name not in chosen:
            continue
        if call.name in [place.name for place in places]:
            raise ValueError(f"{call.name} is called several times in one forward pass; choose modules called once")
        shape = () if call.result is None else recording.operations[call.result].shape
        check(f"the result of {call.name}", shape, len(shape) == 4, "one map of features, (B, C, H, W)")
        block = call.name.rpartition(".")[0]
        places.append(Branch(call.name, shape[1], (shape[2], shape[3]), "identity", block))
    never = chosen - {place.name for place in places}
    if never:
        raise ValueError(f"{', '.join(sorted(never)[:3])} is never called in a forward pass")
    return places


def _check_stages(places: Sequence[Branch], stages: tuple[int, ...]) -> None:
    positive = all(isinstance(depth, int) and depth > 0 for depth in stages)
    expected = f"positive numbers that add up to {len(places)}, the number of branches"
    check("stages", stages, positive and sum(stages) == len(places), expected)


def _channels_of_stages(places: Sequence[Branch], stages: Sequence[int]) -> list[int]:
    """The channels of each stage, which must be the same for all of its branches."""
    widths = []
    start = 0
    for stage, depth in enumerate(stages, start=1):
        channels = [place.channels for place in places[start : start + depth]]
        same = [width for width, _ in groupby(channels)]
        check(f"the channels of stage {stage}", channels, len(same) == 1, "the same for all branches of a stage")
        widths.append(channels[0])
        start += depth
    return widths
