"""Where the residual branches of any network end, found by watching it compute.

A block computes  shortcut(x) + f(x).  Attention belongs between f and the sum (EAN, arXiv 2011.14058), so what has to
be found in a foreign network are its sums of that kind, and the module whose output is f(x). No source is read and
nothing is traced symbolically: the network runs once on example images while every operation of PyTorch on its tensors
is written down. That works for every network that runs, whatever its control flow, and it sees what is really computed:
an addition is a residual one where both of its terms come from one tensor x, one of them by more work than the other.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ean_lib.checks import check
from ean_lib.networks.modes import eval_mode

aten = torch.ops.aten
ADDITIONS = {aten.add.Tensor, aten.add_.Tensor}
WEIGHTED = {aten.convolution, aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten._convolution}
# Between the module's output and the sum these may stand: they scale a branch, but do not mix it with anything.
SCALINGS = {aten.mul, aten.mul_, aten.div, aten.div_, aten.clone, aten.view, aten._unsafe_view, aten.contiguous}
TO_CHANNELS_FIRST = [0, 3, 1, 2]


@dataclass(frozen=True)
class Branch:
    """One residual branch f of a network."""

    name: str  # of the module whose output is f(x)
    channels: int
    size: tuple[int, int]  # height and width of f(x), for the example images
    shortcut: Literal["identity", "projection"]
    block: str = ""  # of the smallest module that holds the sum; empty for the network itself


@dataclass(frozen=True)
class Branches(Sequence[Branch]):
    """The residual branches of a network, in the order in which they are computed."""

    found: tuple[Branch, ...]
    left_out: dict[str, str] = field(default_factory=dict)  # sums and modules that are no such branch: the reason

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: int) -> Branch:
        return self.found[index]

    @property
    def names(self) -> list[str]:
        return [branch.name for branch in self.found]

    @property
    def stages(self) -> tuple[int, ...]:
        """How many consecutive branches have the same channels and resolution, and so can share a module."""
        return tuple(len(list(group)) for _, group in groupby(self.found, key=lambda b: (b.channels, b.size)))

    def __str__(self) -> str:
        lines = [f"{len(self)} residual branches in stages of {', '.join(map(str, self.stages))}"]
        for branch in self.found:
            height, width = branch.size
            lines.append(f"  {branch.name}: {branch.channels} channels, {height} × {width}, {branch.shortcut} shortcut")
        lines += [f"  left out: {name}: {reason}" for name, reason in self.left_out.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Operation:
    """One operation of a forward pass, as a node of its graph."""

    function: Any  # such as torch.ops.aten.add.Tensor; None for the images
    inputs: tuple[int, ...]  # the operations that made its tensor arguments; weights are made by none
    shape: tuple[int, ...]
    arguments: tuple[Any, ...] = ()  # those that are no tensors

    @property
    def kind(self) -> Any:
        """The operation without its overload, such as torch.ops.aten.add."""
        return None if self.function is None else self.function.overloadpacket


@dataclass(frozen=True)
class Call:
    """One call of a module: which operation made its result. Inner calls end before outer ones."""

    name: str
    began: int  # counts beginnings and ends of calls, so that began and ended tell which call is inside which
    ended: int
    first: int  # the operations that it did are first..last
    last: int
    source: int | None  # the operation that made its input, where that is one tensor
    result: int | None  # the operation that made its result, where that is one tensor

    def holds(self, other: Call) -> bool:
        """Whether the other call was made within this one."""
        return self.began < other.began and other.ended < self.ended


class Recording(TorchDispatchMode):
    """The operations of a forward pass and the modules that called them."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.operations = [Operation(None, (), tuple(images.shape))]
        self.calls: list[Call] = []  # in the order in which they ended
        self.modules: dict[str, nn.Module] = {}
        self._made_by = {id(images): 0}
        self._alive: list[Tensor] = [images]  # an id is only unique as long as its object lives

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs))
        inputs = tuple(self._made_by[id(t)] for t in leaves if isinstance(t, Tensor) and id(t) in self._made_by)
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if inputs and outputs:
            others = tuple(leaf for leaf in args if not isinstance(leaf, Tensor))
            self.operations.append(Operation(function, inputs, tuple(outputs[0].shape), others))
            for tensor in outputs:
                self._made_by[id(tensor)] = len(self.operations) - 1
                self._alive.append(tensor)
        return result

    def made_by(self, value: Any) -> int | None:
        """The operation that made a value, where it is a tensor."""
        return self._made_by.get(id(value)) if isinstance(value, Tensor) else None

    @contextmanager
    def watching(self, net: nn.Module) -> Iterator[None]:
        """Note every call of a module of the network."""
        going_on: list[tuple[int, int, int | None]] = []
        clock = itertools.count()
        handles = []

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
            source = self.made_by(tensors[0]) if len(tensors) == 1 else None
            going_on.append((next(clock), len(self.operations), source))

        def after(name: str) -> Any:
            def note(module: nn.Module, args: Any, output: Any) -> None:
                began, first, source = going_on.pop()
                last, result = len(self.operations) - 1, self.made_by(output)
                self.calls.append(Call(name, began, next(clock), first, last, source, result))

            return note

        self.modules = dict(net.named_modules())
        for name, module in self.modules.items():
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@torch.no_grad()
def record(net: nn.Module, example: Tensor) -> Recording:
    """Run the network once, in eval mode, and write down what it computes."""
    recording = Recording(example)
    with eval_mode(net), recording.watching(net), recording:
        net(example)
    return recording


def find_branches(net: nn.Module, example: Tensor) -> Branches:
    """Where the residual branches of a network end.

    A residual sum has two terms of one shape (B, C, H, W) that come from one tensor x: the shortcut, which is x or is
    made from it with at most one convolution, and the branch f(x), which takes more. What the network does is found by
    running it, so it may be any module: residual, pre-activation, inverted bottleneck, ConvNeXt, RegNet, NFNet, ...

    Args:
        net: any network of images; it is run three times in eval mode and left as it was.
        example: a batch of images (B, C, H, W) as the network takes them; two suffice. Their values do not matter.

    Returns:
        The branches in order of computation, their stages (neighbours of the same channels and resolution), and what
        was left out, with the reason: sums of tokens (B, N, C) or of channels-last maps (B, H, W, C), sums inside a
        branch, branches that end in no module or in one that is called several times.

    Raises:
        ValueError: if the network cannot run on the example, or has no residual branch at all (such as DenseNet and
            SqueezeNet, whose blocks concatenate); the message says what was seen instead.
    """
    check("net", type(net).__name__, isinstance(net, nn.Module), "a torch.nn.Module")
    fits = isinstance(example, Tensor) and example.dim() == 4
    shape = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
    check("the example", shape, fits, "a batch of images (B, C, H, W), such as torch.zeros(2, 3, 224, 224)")
    try:
        recording = record(net, example)
    except Exception as error:
        what = f"{type(net).__name__} cannot be run on an example of shape {shape}: {type(error).__name__}: {error}"
        raise ValueError(f"{what}; give images of the size, type and device that it takes") from error
    found, left_out = _residual_sums(recording)
    for branch, reason in _not_in_the_sum(net, example, found).items():
        left_out[branch] = reason
        found = [(name, total) for name, total in found if name.name != branch]
    branches = Branches(tuple(branch for branch, _ in found), left_out)
    if not branches:
        raise ValueError(
            f"{type(net).__name__} has no residual branch to plug attention into: {_seen(recording, left_out)}"
        )
    return branches


def _seen(recording: Recording, left_out: dict[str, str]) -> str:
    """What a network without residual branches does instead, in words."""
    if left_out:
        name, reason = next(iter(left_out.items()))
        more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
        return f"{name}: {reason}{more}"
    concatenations = sum(operation.kind is aten.cat for operation in recording.operations)
    if concatenations:
        return f"its blocks concatenate ({concatenations} times) and never add; name the modules by branches=[...]"
    return "it never adds two maps of features; name the modules by branches=[...]"


def _residual_sums(recording: Recording) -> tuple[list[tuple[Branch, int]], dict[str, str]]:
    """The branches with their sums, and the reasons for those that are left out."""
    operations = recording.operations
    ancestors = ancestors_of(operations)
    found: list[tuple[Branch, int]] = []
    spans: dict[int, set[int]] = {}  # by sum: the operations of its branch
    left_out: dict[str, str] = {}
    for total, operation in enumerate(operations):
        if operation.function not in ADDITIONS or len(operation.inputs) != 2:
            continue
        shapes = {operations[term].shape for term in operation.inputs} | {operation.shape}
        if len(shapes) > 1:
            continue
        split = _split(operations, ancestors, *operation.inputs)
        if split is None:
            continue
        term, work, shortcut = split
        block = _block_of(recording, total)
        label = f"the sum in {block or 'the network'}"
        if reason := _wrong_layout(operations, term, work):
            left_out[label] = reason
            continue
        name = _module_of(recording, term)
        if name is None:
            left_out[label] = "its branch ends in an operation, not in a module; a hook cannot reach it"
            continue
        if isinstance(name, tuple):
            left_out[name[0]] = f"it is called {name[1]} times in one forward pass"
            continue
        _, channels, height, width = operation.shape
        found.append((Branch(name, channels, (height, width), shortcut, block), total))
        spans[total] = work
    return _without_nested(found, spans, left_out), left_out


def _without_nested(
    found: list[tuple[Branch, int]], spans: dict[int, set[int]], left_out: dict[str, str]
) -> list[tuple[Branch, int]]:
    """Sums inside another's branch go, as in Res2Net; but a skip around whole blocks of its own shape goes itself."""
    kept = dict((total, branch) for branch, total in found)
    for branch, total in reversed(found):  # outer sums come after the inner ones
        if total not in kept:
            continue
        inner = [other for other in kept if other in spans[total]]
        alike = [other for other in inner if _shape(kept[other]) == _shape(branch)]
        if alike:
            left_out[branch.name] = f"its branch spans other blocks ({len(inner)} of them)"
            del kept[total]
            continue
        for other in inner:
            left_out[kept[other].name] = f"its sum is inside the branch that ends in {branch.name}"
            del kept[other]
    return [(branch, total) for branch, total in found if total in kept]


def _shape(branch: Branch) -> tuple[int, tuple[int, int]]:
    return branch.channels, branch.size


def ancestors_of(operations: Sequence[Operation]) -> list[int]:
    """For each operation, itself and all that it depends on, as the bits of a whole number."""
    ancestors: list[int] = []
    for index, operation in enumerate(operations):
        mine = 1 << index
        for source in operation.inputs:
            mine |= ancestors[source]
        ancestors.append(mine)
    return ancestors


def _split(
    operations: Sequence[Operation], ancestors: list[int], one: int, other: int
) -> tuple[int, set[int], Literal["identity", "projection"]] | None:
    """(branch, its operations, kind of shortcut) where the two terms of a sum are a branch and a shortcut, or None."""
    common = ancestors[one] & ancestors[other]
    while common:
        x = common.bit_length() - 1  # the last tensor that both come from
        works = [work_between(operations, ancestors, term, x) for term in (one, other)]
        if None not in works:
            break
        common &= ~(1 << x)
    else:
        return None
    weights = [sum(operations[i].kind in WEIGHTED for i in work) for work in works]
    branch, shortcut = (0, 1) if weights[0] >= weights[1] else (1, 0)
    if weights[branch] == 0 or weights[shortcut] > 1 or weights[branch] == weights[shortcut]:
        return None
    kind = "projection" if works[shortcut] else "identity"
    return (one, other)[branch], works[branch], kind


def work_between(operations: Sequence[Operation], ancestors: list[int], term: int, x: int) -> set[int] | None:
    """The operations that make a term from x alone, or None where it also depends on something before x."""
    work: set[int] = set()
    todo = [term]
    while todo:
        index = todo.pop()
        if index == x or index in work:
            continue
        if not ancestors[index] >> x & 1:
            return None
        work.add(index)
        todo.extend(operations[index].inputs)
    return work


def _wrong_layout(operations: Sequence[Operation], term: int, work: set[int]) -> str | None:
    """Why a branch's values are no map (B, C, H, W), or None."""
    dimensions = len(operations[term].shape)
    if dimensions == 3:
        return "it adds tokens (B, N, C), not maps (B, C, H, W)"
    if dimensions != 4:
        return f"it adds tensors of {dimensions} dimensions, not maps (B, C, H, W)"
    turned = False
    for index in sorted(work, reverse=True):
        operation = operations[index]
        if operation.kind is aten.permute and list(operation.arguments[0]) == TO_CHANNELS_FIRST:
            turned = True
        if operation.kind in WEIGHTED:
            linear = operation.kind not in (aten.convolution, aten._convolution)
            return "it adds channels-last maps (B, H, W, C), not (B, C, H, W)" if linear and not turned else None
    return None


def _module_of(recording: Recording, term: int) -> str | tuple[str, int] | None:
    """The module whose result is the term, but for a scaling; (name, calls) where all such are called several times.

    Of several modules that hand the same tensor on, the first that is no `nn.Identity`.
    """
    counts = Counter(call.name for call in recording.calls)
    while True:
        names = [call.name for call in recording.calls if call.result == term and call.name]
        once = [name for name in names if counts[name] == 1]
        if once:
            telling = [name for name in once if not isinstance(recording.modules[name], nn.Identity)]
            return (telling or once)[0]
        if names:
            return names[0], counts[names[0]]
        operation = recording.operations[term]
        if operation.kind not in SCALINGS or len(set(operation.inputs)) != 1:
            return None
        term = operation.inputs[0]


def _block_of(recording: Recording, total: int) -> str:
    """The smallest module that computes the sum."""
    around = [call for call in recording.calls if call.first <= total <= call.last]
    return min(around, key=lambda call: call.ended - call.began).name


def _not_in_the_sum(net: nn.Module, example: Tensor, found: list[tuple[Branch, int]]) -> dict[str, str]:
    """The branches whose sum does not move when the module's result is replaced, with the reason.

    The network runs again with each module's result replaced by a copy. In a residual sum the copy must be the term.
    """
    if not found:
        return {}
    copies: dict[str, int] = {}
    recording = Recording(example)
    handles = []

    def replace(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            copy = output.clone()
            copies[name] = recording.made_by(copy)
            return copy

        return hook

    for branch, _ in found:
        handles.append(net.get_submodule(branch.name).register_forward_hook(replace(branch.name)))
    try:
        with torch.no_grad(), eval_mode(net), recording:
            net(example)
    finally:
        for handle in handles:
            handle.remove()
    sums = [o for o in recording.operations if o.function in ADDITIONS and len(o.inputs) == 2]
    reached = {_unscaled(recording.operations, term) for operation in sums for term in operation.inputs}
    return {
        branch.name: "replacing its result does not change the sum"
        for branch, _ in found
        if copies.get(branch.name) not in reached
    }


def _unscaled(operations: Sequence[Operation], term: int) -> int:
    """The copy from which scalings alone make the term."""
    while operations[term].kind in SCALINGS and operations[term].kind is not aten.clone:
        if len(set(operations[term].inputs)) != 1:
            break
        term = operations[term].inputs[0]
    return term
