"""`build_network` takes numbers of any library, answers everything else in a sentence, and disturbs no generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ean_lib.networks import AttentionResNet, build_network
from ean_lib.schemes import Scheme

SMALL = {"width": 8, "stages": (1, 1)}


def test_blocks_is_an_older_name_of_stages() -> None:
    new, old = (build_network("resnet20", "se", seed=0, **{name: (1, 2)}) for name in ("stages", "blocks"))
    assert new.stages == old.stages == (1, 2)
    assert all(torch.equal(a, b) for a, b in zip(new.state_dict().values(), old.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="`blocks` is an older name of `stages`; give one of the two"):
        build_network("resnet20", stages=(1, 2), blocks=(1, 2))


@pytest.mark.parametrize("name", ["stages", "blocks"])
@pytest.mark.parametrize("value", [3, "3", 2.5, (2.5, 1), (True, 1), [[1], [2]], {1: 2}, (10**9,)])
def test_blocks_that_are_no_list_of_numbers_get_a_sentence(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"stages must be the positive numbers of blocks of the stages, such as"):
        build_network("resnet20", **{name: value})


def test_numbers_of_numpy_and_torch_are_stored_as_pythons() -> None:
    net = build_network(
        "resnet20", "se", num_classes=np.int64(7), width=torch.tensor(8), stem_stride=np.int32(2),
        stages=np.array([1, 2]), scheme=np.array([1, 0, 1]), seed=torch.tensor(5),
    )  # fmt: skip
    same = build_network("resnet20", "se", num_classes=7, width=8, stem_stride=2, stages=(1, 2), scheme="1-01", seed=5)
    assert net.scheme == same.scheme and net.stages == (1, 2)
    assert all(type(number) is int for number in (*net.stages, net.fc.out_features, net.conv1.out_channels))
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), same.state_dict().values(), strict=True))


@pytest.mark.parametrize("seed", [-1, 2**64, 0.5, "0", True])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with pytest.raises(ValueError, match=r"seed must be a whole number in 0\.\.18446744073709551615"):
        build_network("resnet20", seed=seed, **SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (3, "attention_kwargs must be the attention module's options by name"),
        ({1: 2}, "attention_kwargs must be the attention module's options by name"),
        ({"channels": 8}, "attention_kwargs must not hold 'channels'"),
        ({"rd_ration": 0.5}, "Did you mean 'rd_ratio'"),
    ],
)
def test_options_of_the_attention_module_are_checked(options: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_network("resnet20", "se", attention_kwargs=options, **SMALL)


def test_a_seed_reseeds_no_generator_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.manual_seed` asks these to, with and without a GPU; nothing would put their generators back."""
    reseeded = []
    for backend in (torch.cuda, torch.xpu):
        monkeypatch.setattr(backend, "manual_seed_all", lambda seed: reseeded.append(seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
    assert reseeded  # the test can fail
    reseeded.clear()
    build_network("resnet20", "se", seed=1, **SMALL)
    assert not reseeded


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_seed_leaves_the_gpus_generator_alone_and_gives_the_same_weights_there() -> None:
    before = torch.cuda.get_rng_state()
    with torch.device("cuda"):
        net = build_network("resnet20", "se", seed=1, **SMALL)
    assert torch.equal(before, torch.cuda.get_rng_state())
    assert all(value.is_cuda for value in net.state_dict().values())
    same = build_network("resnet20", "se", seed=1, **SMALL)
    assert all(
        torch.equal(a.cpu(), b) for a, b in zip(net.state_dict().values(), same.state_dict().values(), strict=True)
    )


def test_a_seeded_network_is_built_where_torch_says() -> None:
    with torch.device("meta"):
        assert build_network("resnet20", seed=0, **SMALL).conv1.weight.is_meta


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 20), st.floats(), st.text(max_size=5), st.binary(max_size=3),
    st.integers(-3, 20).map(np.int64), st.integers(-3, 20).map(torch.tensor), st.floats(width=32).map(np.float32),
)  # fmt: skip
LISTS = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=4), st.lists(st.integers(0, 3), max_size=3),
    st.lists(st.integers(0, 3), max_size=3).map(np.array), st.lists(st.integers(0, 3), max_size=3).map(torch.tensor),
    st.dictionaries(st.text(max_size=3), SCALARS, max_size=2),
)  # fmt: skip
OPTIONS = st.dictionaries(st.sampled_from(["rd_ratio", "rd_channels", "groups", "gamma", "kernel_size", "x"]), SCALARS)
ARGUMENTS = st.fixed_dictionaries(
    {"backbone": st.one_of(st.just("resnet20"), st.sampled_from(["resnet18", "resnet50", "resnet"]), SCALARS)},
    optional={
        "attention": st.one_of(st.sampled_from(["se", "sge", "dia", "eca", "cbam"]), SCALARS),
        "share": st.one_of(st.sampled_from(["stage", "none"]), SCALARS),
        "scheme": st.one_of(st.sampled_from(["1-0", "111", "0-0"]), LISTS),
        "num_classes": SCALARS,
        "width": SCALARS,
        "stem_stride": SCALARS,
        "seed": SCALARS,
        "attention_kwargs": st.one_of(OPTIONS, LISTS),
    },
)


@settings(max_examples=150, deadline=None)
@given(arguments=ARGUMENTS, stages=st.one_of(st.just((1, 1)), LISTS.filter(lambda value: value is not None)))
def test_any_arguments_give_a_network_or_a_value_error_with_a_sentence(arguments: dict, stages: object) -> None:
    try:
        net = build_network(**arguments, stages=stages)
    except ValueError as error:
        assert len(str(error).split()) >= 4, str(error)
    else:
        assert isinstance(net, AttentionResNet) and isinstance(net.scheme, Scheme)
        assert all(type(count) is int for count in net.stages) and type(net.fc.out_features) is int
