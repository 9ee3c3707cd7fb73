"""Networks of other libraries by name, such as ``torchvision:resnet18`` and ``timm:resnet50d``."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from ean_lib.checks import check_choice, check_number, suggest
from ean_lib.networks.fine_tuning import backbone_weights, head_names

LIBRARIES = ("torchvision", "timm")


def is_foreign(backbone: str) -> bool:
    """Whether a backbone's name names a library."""
    return ":" in backbone


def create_foreign(
    backbone: str, num_classes: int, seed: int, pretrained: bool = False, new_head: bool = False
) -> nn.Module:
    """The network of another library, in training mode.

    Args:
        backbone: ``torchvision:NAME`` or ``timm:NAME``.
        num_classes: outputs.
        seed: of weights that are drawn; torch's global generator is left as it was.
        pretrained: take the weights that the library offers, by its own loader.
        new_head: its last layer is drawn all the same, as for other classes.

    Raises:
        ValueError: for an unknown library or network, one that cannot be built, or weights for other classes.
        ConnectionError: if the weights cannot be downloaded.
    """
    num_classes = check_number("num_classes", num_classes, low=1, whole=True)
    library, name = _parts(backbone)
    device = torch.get_default_device()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        if library == "timm":
            net = _from_timm(name, num_classes, pretrained, new_head)
        else:
            net = _build(backbone, lambda: models.get_model(name, weights=None, num_classes=num_classes))
            if pretrained:
                own = net.state_dict()
                net.load_state_dict(own | backbone_weights(torchvision_weights(name), own, head_names(net), new_head))
    return net.to(device)


def torchvision_weights(name: str) -> dict[str, Tensor]:
    """The weights that torchvision recommends for one of its networks.

    Raises:
        ValueError: if it has none.
        ConnectionError: if they cannot be downloaded.
    """
    entry = _torchvision_entry(name)
    with _downloading(f"torchvision's weights of {name}"):
        return dict(entry.get_state_dict(progress=sys.stderr.isatty(), check_hash=True))


def pretrained_name(backbone: str) -> str:
    """Which pretrained weights a backbone's are: the library's own name of them.

    Raises:
        ValueError: if there are none.
    """
    library, name = _parts(backbone) if is_foreign(backbone) else ("torchvision", backbone)
    if library == "torchvision":
        return str(_torchvision_entry(name))
    import timm

    described = timm.get_pretrained_cfg(name)
    if described is None or not described.has_weights:
        raise ValueError(f"timm has no weights of {name}; leave out --pretrained, or give a file by --weights")
    return f"{described.architecture}.{described.tag}"


def _parts(backbone: str) -> tuple[str, str]:
    """Library and name, both known."""
    library, _, name = backbone.partition(":")
    check_choice("library of a backbone", library, LIBRARIES)
    if library == "torchvision":
        check_choice("network of torchvision", name, models.list_models(module=models))
        return library, name
    timm = _timm()
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"unknown network of timm {name!r:.60}. {suggest(name, timm.list_models())[:300]}")
    return library, name


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        needs = "needs the package timm: install it with `pip install timm`"
        raise ValueError(f"a backbone timm:NAME {needs}") from None
    return timm


def _from_timm(name: str, num_classes: int, pretrained: bool, new_head: bool) -> nn.Module:
    timm = _timm()
    if not pretrained:
        return _build(f"timm:{name}", lambda: timm.create_model(name, num_classes=num_classes))
    pretrained_name(f"timm:{name}")
    with _downloading(f"timm's weights of {name}"):
        net = timm.create_model(name, pretrained=True)
    if new_head:
        net.reset_classifier(num_classes)
    elif net.num_classes != num_classes:
        advice = "take all but the last layer by --new-head"
        raise ValueError(
            f"timm's weights of {name} are for {net.num_classes} classes, the images have {num_classes}; {advice}"
        )
    return net


def _torchvision_entry(name: str) -> Any:
    try:
        return models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError):
        what = f"torchvision has no pretrained weights of {name}"
        raise ValueError(f"{what}; leave out --pretrained, or give a file by --weights") from None


def _build(what: str, build: Any) -> nn.Module:
    try:
        return build()
    except Exception as error:  # libraries assert, and raise whatever else, on what they cannot build
        raise ValueError(f"{what} could not be built: {type(error).__name__}: {error}") from error


@contextmanager
def _downloading(what: str) -> Iterator[None]:
    """Within, an error of the network is one sentence."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: a download that is not whole
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        advice = "connect to the network, or fetch the weights elsewhere and give the file by --weights"
        raise ConnectionError(f"{what} could not be downloaded ({reason}); {advice}") from None
