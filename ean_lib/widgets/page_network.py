"""A trained network as one compact file that a page can compute with (js/network.js), and the same file in Python.

Weights are 8-bit integers with a scale per output channel. BatchNorms become a factor and a shift per channel; what
they are depends on the scheme, as a supernet's statistics are measured anew for each (see `Scorer`). The statistics of
a block depend on the bits before it alone, so that they are kept per prefix: 63 rows for all 64 schemes of six blocks.
Of a deeper network only the prefixes of chosen schemes are kept; every other scheme gets the network's own statistics.

The file is JSON: names and shapes to read, and all numbers as base64 in `data`, with a checksum.
"""

import base64
import copy
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ean_lib.attention import create_attention
from ean_lib.attention.common import State
from ean_lib.attention.dia import DIA
from ean_lib.attention.se import SE
from ean_lib.attention.sge import SGE
from ean_lib.checks import check
from ean_lib.networks import AttentionResNet, attention_modules, connect
from ean_lib.networks.batchnorm import Moments
from ean_lib.schemes import Scheme
from ean_lib.supernet.prefix_walk import PrefixWalk

FORMAT = 1
KINDS: dict[str, type[nn.Module]] = {"se": SE, "sge": SGE, "dia": DIA}
MOST_SCHEMES = 256  # whose statistics are kept where none are chosen
Packed = dict[str, Any]


class Tensors:
    """Collects arrays one behind the other, and where each lies."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, name: str, values: np.ndarray) -> None:
        """Append an array of int8, float16 or float32; each begins at a multiple of four bytes."""
        content = values.tobytes()
        content += bytes(-len(content) % 4)
        self.entries[name] = {"type": str(values.dtype), "shape": list(values.shape), "at": self.size}
        self.parts.append(content)
        self.size += len(content)

    def add_weight(self, name: str, weight: Tensor) -> Tensor:
        """Append a weight (outputs, ...) as 8-bit integers and a scale per output; gives what they stand for."""
        rows = weight.detach().float().flatten(1)
        scale = rows.abs().amax(1).clamp(min=1e-12) / 127
        whole = (rows / scale[:, None]).round().clamp(-127, 127)
        self.add(name, whole.reshape(weight.shape).to(torch.int8).numpy())
        self.add(f"{name}.scale", scale.numpy())
        return (whole * scale[:, None]).reshape(weight.shape)


def pack_network(
    net: AttentionResNet,
    *,
    class_names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    image_size: tuple[int, int],
    calibration: Tensor | None = None,
    schemes: Iterable[Scheme] | None = None,
    measured: Mapping[str, Any] | None = None,
) -> Packed:
    """The file's content for a network of this library.

    Args:
        net: a network with SE, SGE or DIA, or without attention.
        class_names: of all classes, in order.
        mean: of the colour channels (0 to 1), which the page subtracts from a picture.
        std: of the colour channels, by which it then divides.
        image_size: height and width of the pictures.
        calibration: normalised training images (B, 3, H, W), from which BatchNorm statistics are measured anew for each
            prefix, with the 8-bit weights; None keeps the network's own.
        schemes: whose prefixes get statistics of their own; None: all, where they are at most 256.
        measured: what is known of the schemes, by their text, to stand beside the answers.

    Raises:
        ValueError: for other networks, attention modules or numbers of classes.
    """
    check("the network of a page", type(net).__name__, isinstance(net, AttentionResNet), "made by build_network")
    names = list(class_names)
    check("the number of class names", len(names), len(names) == net.fc.out_features, f"{net.fc.out_features}")
    modules = attention_modules(net)
    tensors = Tensors()
    description: Packed = {
        "format": FORMAT,
        "classes": names,
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
        "image_size": list(image_size),
        "stages": list(net.stages),
        "measured": dict(measured or {}),
        "attention": [attention_entry(module) for module in modules],
    }
    quantised = quantise(net, tensors)
    description["stem"] = conv_entry("conv1", net.conv1) | {"pool": not isinstance(net.maxpool, nn.Identity)}
    description["blocks"] = []
    for number, (block, (stage, index, module)) in enumerate(zip(net.block_modules(), net.connections(), strict=True)):
        convs = [
            conv_entry(f"block{number}.{name}", layer)
            for name, layer in block.named_children()
            if isinstance(layer, nn.Conv2d)
        ]
        shortcut = None if block.downsample is None else conv_entry(f"block{number}.shortcut", block.downsample[0])
        place = None if module is None else modules.index(module)
        first = index == 0
        description["blocks"].append(
            {"stage": stage, "first": first, "convs": convs, "shortcut": shortcut, "attention": place}
        )
    description["prefixes"] = add_norms(quantised, tensors, calibration, schemes)
    data = b"".join(tensors.parts)
    description["tensors"] = tensors.entries
    description["sha256"] = hashlib.sha256(data).hexdigest()
    description["data"] = base64.b64encode(data).decode()
    return description


def attention_entry(module: nn.Module) -> dict[str, Any]:
    """What js/network.js needs to know of an attention module."""
    for kind, wanted in KINDS.items():
        if type(module) is wanted:
            return {"kind": kind, "groups": getattr(module, "groups", None)}
    raise ValueError(f"a page computes with {', '.join(KINDS)}, not with {type(module).__name__}")


def conv_entry(name: str, conv: nn.Conv2d) -> dict[str, Any]:
    """A convolution: the name of its weight, and how it moves."""
    return {"weight": name, "stride": conv.stride[0], "padding": conv.padding[0], "groups": conv.groups}


@torch.no_grad()
def quantise(net: AttentionResNet, tensors: Tensors) -> AttentionResNet:
    """A copy of the network with the weights that the file holds; they are appended to the tensors."""
    copied = copy.deepcopy(net).cpu().float().eval().requires_grad_(False)
    copied.conv1.weight.copy_(tensors.add_weight("conv1", net.conv1.weight))
    for number, block in enumerate(copied.block_modules()):
        for name, layer in block.named_children():
            if isinstance(layer, nn.Conv2d):
                layer.weight.copy_(tensors.add_weight(f"block{number}.{name}", layer.weight))
        if block.downsample is not None:
            conv = block.downsample[0]
            conv.weight.copy_(tensors.add_weight(f"block{number}.shortcut", conv.weight))
    for number, module in enumerate(attention_modules(copied)):
        for name, parameter in module.named_parameters():
            entry = f"attention{number}.{name}"
            if parameter.dim() > 1 and not isinstance(module, SGE):
                parameter.copy_(tensors.add_weight(entry, parameter))
            else:
                tensors.add(entry, parameter.detach().float().numpy())
    copied.fc.weight.copy_(tensors.add_weight("fc", copied.fc.weight))
    tensors.add("fc.bias", copied.fc.bias.float().numpy())
    return copied


def norms_of_block(block: nn.Module) -> list[nn.BatchNorm2d]:
    """The BatchNorms of a block in the order of its convolutions, the shortcut's last."""
    norms = [layer for layer in block.children() if isinstance(layer, nn.BatchNorm2d)]
    return norms if block.downsample is None else [*norms, block.downsample[1]]


def factors(norms: Sequence[nn.BatchNorm2d], record: Mapping[nn.Module, Moments]) -> np.ndarray:
    """For each BatchNorm its factors, then its shifts, in one row; with the record's statistics, where it has some."""
    row = []
    for norm in norms:
        mean, var = norm.running_mean, norm.running_var
        if norm in record:
            mean, var = record[norm].mean, record[norm].var
        factor = norm.weight / (var + norm.eps).sqrt()
        row += [factor, norm.bias - mean * factor]
    return torch.cat(row).detach().to(torch.float16).numpy()


@torch.no_grad()
def add_norms(
    net: AttentionResNet, tensors: Tensors, calibration: Tensor | None, schemes: Iterable[Scheme] | None
) -> list[list[str]]:
    """Append the BatchNorms of stem and blocks; gives for each block the prefixes that its rows stand for.

    The first row of a block holds the network's own statistics, for every prefix that is not listed.
    """
    statistics: dict[Any, Any] = {}
    if calibration is not None:
        if schemes is None:
            few = 2 ** sum(net.stages) <= MOST_SCHEMES
            check("the number of schemes", 2 ** sum(net.stages), few, f"at most {MOST_SCHEMES}, or give `schemes`")
            present = [module is not None for _, _, module in net.connections()]
            schemes = [scheme for scheme in Scheme.all_of(net.stages) if fits(scheme, present)]
        walk = PrefixWalk(net, [Scheme.parse(scheme, net.stages) for scheme in schemes])
        walk.calibrate(calibration)
        statistics = walk.statistics
    tensors.add("norms.stem", factors([net.bn1], statistics.get(None, {})))
    prefixes = []
    for depth, block in enumerate(net.block_modules()):
        norms = norms_of_block(block)
        kept = sorted(bits for bits in statistics if bits is not None and len(bits) == depth)
        rows = [factors(norms, {}), *(factors(norms, statistics[bits]) for bits in kept)]
        tensors.add(f"norms.{depth}", np.stack(rows))
        prefixes.append(["".join(str(int(bit)) for bit in bits) for bits in kept])
    return prefixes


def fits(scheme: Scheme, present: Sequence[bool]) -> bool:
    """Whether a scheme connects only blocks at which there is a module."""
    return all(there or not bit for bit, there in zip(scheme.bits, present, strict=True))


class PackedNetwork:
    """The network of a file: it computes in Python what js/network.js computes in a page.

    Args:
        packed: what `pack_network` gave, also after a way through JSON.

    Raises:
        ValueError: if it is of another format, or its numbers are not those of the checksum.
    """

    def __init__(self, packed: Mapping[str, Any]) -> None:
        check("the format of a page's network", packed.get("format"), packed.get("format") == FORMAT, str(FORMAT))
        data = base64.b64decode(packed["data"])
        if hashlib.sha256(data).hexdigest() != packed["sha256"]:
            raise ValueError("the numbers of this network are damaged (another checksum): pack the network again")
        self.packed = packed
        self.stages = tuple(packed["stages"])
        self.tensors: dict[str, Tensor] = {}
        for name, entry in packed["tensors"].items():
            count = int(np.prod(entry["shape"]))
            values = np.frombuffer(data, entry["type"], count, entry["at"]).reshape(entry["shape"])
            self.tensors[name] = torch.from_numpy(values.astype(np.float32))
        self.attention = [self._module(number, entry) for number, entry in enumerate(packed["attention"])]

    @torch.no_grad()
    def __call__(self, x: Tensor, scheme: Scheme | str) -> Tensor:
        """Class scores (B, classes) of normalised images (B, 3, H, W)."""
        scheme = Scheme.parse(scheme, self.stages)
        stem = self.packed["stem"]
        x = torch.relu(self._conv(x, stem, *self.tensors["norms.stem"].split(self._outputs(stem))))
        if stem["pool"]:
            x = F.max_pool2d(x, 3, 2, 1)
        state: State = None
        prefix = ""
        for depth, (block, bit) in enumerate(zip(self.packed["blocks"], scheme.bits, strict=True)):
            listed = self.packed["prefixes"][depth]
            row = 1 + listed.index(prefix) if prefix in listed else 0
            layers = block["convs"] + ([block["shortcut"]] if block["shortcut"] else [])
            sizes = [self._outputs(layer) for layer in layers for _ in range(2)]
            norms = self.tensors[f"norms.{depth}"][row].split(sizes)
            y = x
            for number, layer in enumerate(block["convs"]):
                y = self._conv(torch.relu(y) if number else y, layer, *norms[2 * number : 2 * number + 2])
            shortcut = self._conv(x, block["shortcut"], *norms[-2:]) if block["shortcut"] else x
            state = None if block["first"] else state
            module = None if block["attention"] is None else self.attention[block["attention"]]
            y, state = connect(module, bit, y, state)
            x = torch.relu(shortcut + y)
            prefix += str(int(bit))
        return F.linear(x.mean((2, 3)), self._weight("fc"), self.tensors["fc.bias"])

    def _outputs(self, layer: Mapping[str, Any]) -> int:
        return self.packed["tensors"][layer["weight"]]["shape"][0]

    def _weight(self, name: str) -> Tensor:
        weight = self.tensors[name]
        return weight * self.tensors[f"{name}.scale"].view(-1, *[1] * (weight.dim() - 1))

    def _conv(self, x: Tensor, layer: Mapping[str, Any], factor: Tensor, shift: Tensor) -> Tensor:
        weight = self._weight(layer["weight"])
        y = F.conv2d(x, weight, None, layer["stride"], layer["padding"], 1, layer["groups"])
        return y * factor[:, None, None] + shift[:, None, None]

    def _module(self, number: int, entry: Mapping[str, Any]) -> nn.Module:
        """The attention module of that number, with the file's weights."""
        names = [
            name for name in self.tensors if name.startswith(f"attention{number}.") and not name.endswith(".scale")
        ]
        state = {}
        for name in names:
            is_weight = f"{name}.scale" in self.tensors
            state[name.partition(".")[2]] = self._weight(name) if is_weight else self.tensors[name]
        options: dict[str, Any] = {"groups": entry["groups"]} if entry["kind"] == "sge" else {}
        if entry["kind"] == "sge":
            channels = self._channels_of(number)
        else:
            first = state["fc1.weight" if entry["kind"] == "se" else "ih.0.weight"]
            channels, options["rd_channels"] = first.shape[1], first.shape[0]
        module = create_attention(entry["kind"], channels, **options)
        module.load_state_dict(state)
        return module.eval()

    def _channels_of(self, number: int) -> int:
        """How many channels the blocks have that call an attention module."""
        block = next(block for block in self.packed["blocks"] if block["attention"] == number)
        return self._outputs(block["convs"][-1])
