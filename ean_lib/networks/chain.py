"""A plugged network as a chain of blocks, so that schemes with the same first bits share their work.

The code of a foreign network cannot be cut into stem, blocks and head. But it can be run with some of its modules
answering at once. To go on after block i, run it with block i answering the features at hand, and everything before it
answering with tensors that nobody reads. To finish a block whose branch f(x) is known, run the block with its branch
answering f(x). What must be computed and what may be skipped is read off a recording of one forward pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ean_lib.networks.branches import Call, ancestors_of, record, work_between


class _Reached(Exception):
    """The forward pass has come to where its tensor is wanted; what follows need not be computed."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.tensor = tensor


@contextmanager
def answering(answers: Mapping[nn.Module, Callable[..., Tensor]]) -> Iterator[None]:
    """Within, these modules give these answers instead of computing."""
    try:
        for module, answer in answers.items():
            # An attribute goes before the method of its class. Not `forward`: hooks would still be called.
            module._call_impl = answer
        yield
    finally:
        for module in answers:
            module.__dict__.pop("_call_impl", None)


def _until_result(module: nn.Module, run: Callable[[], Any]) -> Tensor:
    """The module's result, when it is called while something runs."""

    def stop(_: nn.Module, inputs: Any, output: Tensor) -> NoReturn:
        raise _Reached(output)

    return _reach(module.register_forward_hook(stop), run)


def _until_input(module: nn.Module, run: Callable[[], Any]) -> Tensor:
    """The module's input, when it is called while something runs."""

    def stop(_: nn.Module, inputs: Any, keywords: Any) -> NoReturn:
        raise _Reached(next(value for value in (*inputs, *keywords.values()) if isinstance(value, Tensor)))

    return _reach(module.register_forward_pre_hook(stop, with_kwargs=True), run)


def _reach(handle: Any, run: Callable[[], Any]) -> Tensor:
    try:
        run()
    except _Reached as reached:
        return reached.tensor
    finally:
        handle.remove()
    raise RuntimeError("the network did not call a module that it called before: its path depends on the images")


class Plan:
    """What a recording says of a network's blocks: is it a chain, and what may be skipped where?

    Args:
        backbone: the network, in eval mode.
        blocks: the names of the modules that compute the sums.
        branches: the names of the modules that end the branches.
        example: images of the size that will come.

    Attributes:
        reason: why the network is no chain, or None.
    """

    def __init__(self, backbone: nn.Module, blocks: list[str], branches: list[str], example: Tensor) -> None:
        self.image_shape = tuple(example.shape[1:])
        self.recording = record(backbone, example)
        self.counts = Counter(call.name for call in self.recording.calls)
        by_name = {call.name: call for call in self.recording.calls}
        self.blocks = [by_name[name] for name in blocks]
        self.branches = [by_name[name] for name in branches]
        self.modules = self.recording.modules
        self.reason = self._reason(by_name[""])
        if self.reason is None:
            self.direct = [a.result == b.source for a, b in zip(self.blocks, self.blocks[1:], strict=False)]
            self.before = [self._skipped_before(block) for block in self.blocks]
            self.inside = [self._inside(*pair) for pair in zip(self.blocks, self.branches, strict=True)]

    def _reason(self, whole: Call) -> str | None:
        ancestors = ancestors_of(self.recording.operations)
        previous: Call | None = None
        for block, branch in zip(self.blocks, self.branches, strict=True):
            if not block.name or self.counts[block.name] != 1:
                return f"the block of {branch.name} is no module of its own that is called once"
            if previous is not None and block.began < previous.ended:
                return f"{block.name} holds the sums of several branches, or blocks lie within each other"
            if block.source is None or block.result is None or whole.result is None:
                return f"{block.name} does not make one tensor from one tensor, or the network gives several"
            if branch is not block and not block.holds(branch):
                return f"the branch {branch.name} ends outside of its block {block.name}"
            for later, earlier in ((block.result, block.source), (whole.result, block.result)):
                if work_between(self.recording.operations, ancestors, later, earlier) is None:
                    return f"what follows {block.name} also uses features from before it"
            late = [call.name for call in self.recording.calls if block.holds(call) and call.first > branch.result]
            if any(isinstance(self.modules[name], _BatchNorm) and self._follows(name, branch) for name in late):
                return f"a BatchNorm of {block.name} comes after the sum"
            previous = block
        return None

    def _follows(self, name: str, branch: Call) -> bool:
        """Whether the module's result depends on the branch's."""
        ancestors = ancestors_of(self.recording.operations)
        results = [call.result for call in self.recording.calls if call.name == name and call.result is not None]
        return any(ancestors[result] >> branch.result & 1 for result in results)

    def _skippable(self, call: Call) -> bool:
        return call.result is not None and self.counts[call.name] == 1

    def _skipped_before(self, block: Call) -> dict[nn.Module, tuple[int, ...]]:
        """The largest modules that have ended when the block begins, with the shapes of their results."""
        ended = [call for call in self.recording.calls if call.ended < block.began and self._skippable(call)]
        return self._shapes(self._largest(ended))

    def _inside(self, block: Call, branch: Call) -> tuple[dict[nn.Module, tuple[int, ...]], list[nn.Module], bool]:
        """Of a block: the modules that only its branch needs, those of its shortcut, and if it writes to its input."""
        operations = self.recording.operations
        needed: set[int] = set()  # for the block's result, when the branch's is known
        todo = [block.result]
        while todo:
            index = todo.pop()
            if index in needed or index in (branch.result, block.source) or index < block.first:
                continue
            needed.add(index)
            todo.extend(operations[index].inputs)
        after: set[int] = {branch.result}  # all that depends on the branch's result
        for index in range(branch.result + 1, block.last + 1):
            if after & set(operations[index].inputs):
                after.add(index)
        of_branch, of_shortcut = [], []
        for call in self.recording.calls:
            if not block.holds(call) or call is branch or call.holds(branch) or branch.holds(call):
                continue
            did = set(range(call.first, call.last + 1))
            if not self._skippable(call) or not did or did & after:
                continue
            if not did & needed:
                of_branch.append(call)
            elif call.result in needed:
                of_shortcut.append(call)
        shortcut = [self.modules[call.name] for call in self._largest(of_shortcut)]
        writes = any(
            operation.function._schema.name.endswith("_") and operation.inputs[:1] == (block.source,)
            for operation in operations[block.first : block.last + 1]
        )
        return self._shapes(self._largest(of_branch)), shortcut, writes

    def _largest(self, calls: list[Call]) -> list[Call]:
        """Those that are not within another one."""
        return [call for call in calls if not any(other.holds(call) for other in calls)]

    def _shapes(self, calls: list[Call]) -> dict[nn.Module, tuple[int, ...]]:
        return {self.modules[call.name]: self.recording.operations[call.result].shape[1:] for call in calls}


class PluggedChain:
    """The chain of a plugged network's blocks: `stem`, `blocks`, `head`, as the contract wants them.

    Args:
        backbone: in eval mode; its modules' calls are answered for moments, so no other thread may use it.
        blocks: the names of the modules that compute the sums.
        branches: the names of the modules that end the branches.
        example: images that it takes. Those of another size are recorded when they come.

    Raises:
        ValueError: if the network is no chain; the message says why.
    """

    def __init__(self, backbone: nn.Module, blocks: list[str], branches: list[str], example: Tensor) -> None:
        self.backbone = backbone
        self.names = (blocks, branches)
        self._unread: dict[Any, Tensor] = {}
        self.plan = self._made_plan(example)
        self.blocks = [PluggedBlock(self, index) for index in range(len(branches))]

    def _made_plan(self, example: Tensor) -> Plan:
        plan = Plan(self.backbone, *self.names, example)
        if plan.reason is not None:
            raise ValueError(f"the network is no chain of blocks: {plan.reason}")
        return plan

    def module(self, call: Call) -> nn.Module:
        return self.plan.modules[call.name]

    def stem(self, x: Tensor) -> Tensor:
        """Images to the first block's input."""
        if tuple(x.shape[1:]) != self.plan.image_shape:
            self.plan = self._made_plan(x[:2])
        return _until_input(self.module(self.plan.blocks[0]), lambda: self.backbone(x))

    def head(self, x: Tensor) -> Any:
        """The last block's output to what the network gives."""
        return self._after(len(self.blocks) - 1, x)

    def between(self, index: int, x: Tensor) -> Tensor:
        """The output of the block before to the input of block `index`."""
        if index == 0 or self.plan.direct[index - 1]:
            return x
        return _until_input(self.module(self.plan.blocks[index]), lambda: self._after(index - 1, x))

    def unread(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A tensor of that shape for each image, whose values nobody reads, so that one serves for all calls."""
        key = (len(like), shape, like.dtype, like.device)
        if key not in self._unread:
            self._unread[key] = like.new_zeros((len(like), *shape))
        return self._unread[key]

    def answers(self, like: Tensor, shapes: Mapping[nn.Module, tuple[int, ...]]) -> dict[nn.Module, Any]:
        """Such answers for modules whose results nobody reads."""
        return {module: lambda *_, s=shape, **__: self.unread(like, s) for module, shape in shapes.items()}

    def _after(self, index: int, x: Tensor) -> Any:
        """Run the network with block `index` answering x."""
        images = self.unread(x, self.plan.image_shape)
        answers = self.answers(x, self.plan.before[index])
        answers[self.module(self.plan.blocks[index])] = lambda *_, **__: x.clone()
        with answering(answers):
            return self.backbone(images)


class PluggedBlock:
    """One block of the chain, and what the network does between the block before it and this one."""

    def __init__(self, chain: PluggedChain, index: int) -> None:
        self.chain = chain
        self.index = index
        self._input: Tensor | None = None
        self._results: dict[nn.Module, Tensor] = {}

    @property
    def _block(self) -> nn.Module:
        return self.chain.module(self.chain.plan.blocks[self.index])

    @property
    def _branch(self) -> nn.Module:
        return self.chain.module(self.chain.plan.branches[self.index])

    def modules(self) -> Iterator[nn.Module]:
        """The modules that this block computes with, those between the block before it and this one included."""
        yield from self._block.modules()
        plan = self.chain.plan
        if self.index == 0 or plan.direct[self.index - 1]:
            return
        before, block = plan.blocks[self.index - 1], plan.blocks[self.index]
        for call in plan.recording.calls:
            if before.ended < call.began and call.ended < block.began:
                yield plan.modules[call.name]

    def branch(self, x: Tensor) -> Tensor:
        """The residual branch f(x). What the block makes of its shortcut meanwhile is kept for `shortcut`."""
        x = self._input = self.chain.between(self.index, x)
        self._results = {}
        with self._noting_shortcut():
            return _until_result(self._branch, lambda: self._block(self._own(x)))

    def shortcut(self, x: Tensor) -> tuple[Tensor, dict[nn.Module, Tensor]]:
        """The block's input, and what the modules of its shortcut have made of it; `branch` has to be asked before."""
        x, results = self._input, self._results
        plan = self.chain.plan
        of_branch, of_shortcut, _ = plan.inside[self.index]
        if len(results) < len(of_shortcut):
            shape = plan.recording.operations[plan.branches[self.index].result].shape[1:]
            with self._noting_shortcut():
                self._run(x, {**of_branch, self._branch: shape}, dict(results))
        return x, results

    @contextmanager
    def _noting_shortcut(self) -> Iterator[None]:
        """Within, the results of the shortcut's modules are kept, as copies, since others may write to them."""
        results = self._results

        def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
            results[module] = output.clone()

        handles = [module.register_forward_hook(note) for module in self.chain.plan.inside[self.index][1]]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def merge(self, shortcut: tuple[Tensor, dict[nn.Module, Tensor]], y: Tensor) -> Tensor:
        """The block's output."""
        x, results = shortcut
        of_branch, _, _ = self.chain.plan.inside[self.index]
        # Copies, since the network's own code may add in place.
        return self._run(x, of_branch, {**results, self._branch: y})

    def _run(self, x: Tensor, unread: Mapping[nn.Module, tuple[int, ...]], known: Mapping[nn.Module, Tensor]) -> Tensor:
        answers = self.chain.answers(x, unread)
        for module, value in known.items():
            answers[module] = lambda *_, value=value, **__: value.clone()
        with answering(answers):
            return self._block(self._own(x))

    def _own(self, x: Tensor) -> Tensor:
        """The block's input; a copy of it where the block writes to it."""
        writes = self.chain.plan.inside[self.index][2]
        return x.clone() if writes else x
