"""Schemes: every way of writing one gives the same scheme, and every wrong way says what is wrong."""

from __future__ import annotations

import contextlib
import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ean_lib.schemes import Scheme

STAGES = st.lists(st.integers(1, 6), min_size=1, max_size=5).map(tuple)
SCHEMES = STAGES.flatmap(
    lambda stages: st.tuples(*[st.booleans()] * sum(stages)).map(lambda bits: Scheme(bits, stages))
)


@given(SCHEMES)
def test_every_written_form_reads_back_as_the_same_scheme(scheme):
    flat = [int(bit) for bit in scheme.bits]
    per_stage = [[int(bit) for bit in part] for part in scheme.per_stage]
    assert Scheme.parse(str(scheme)) == scheme
    assert Scheme.parse(str(scheme), scheme.stages) == scheme
    assert Scheme.parse(str(scheme).replace("-", ""), scheme.stages) == scheme
    assert Scheme.parse(f" {scheme}\n") == scheme
    with_stages = json.dumps({"bits": str(scheme), "stages": scheme.stages})
    assert Scheme.parse(with_stages) == scheme
    assert Scheme.parse(with_stages, scheme.stages) == scheme
    assert Scheme.parse(json.dumps(str(scheme))) == scheme
    assert Scheme.parse(json.dumps({"bits": str(scheme)})) == scheme
    assert Scheme.parse(json.dumps(flat), scheme.stages) == scheme
    assert Scheme.parse(json.dumps(per_stage)) == scheme
    assert Scheme.parse({"bits": flat, "stages": list(scheme.stages)}) == scheme
    assert Scheme.parse(flat, list(scheme.stages)) == scheme
    assert Scheme.parse(scheme.bits, scheme.stages) == scheme
    assert Scheme.parse(per_stage) == scheme
    assert Scheme.parse(scheme.as_tensor(), scheme.stages) == scheme
    assert Scheme.parse(torch.tensor(flat), scheme.stages) == scheme
    assert Scheme.parse(np.array(scheme.bits), scheme.stages) == scheme
    assert Scheme.parse(list(np.array(scheme.bits)), scheme.stages) == scheme
    assert Scheme.parse(scheme, scheme.stages) is not None and Scheme.parse(scheme) == scheme
    assert pickle.loads(pickle.dumps(scheme)) == scheme and hash(Scheme.parse(str(scheme))) == hash(scheme)


@given(SCHEMES)
def test_counts_and_complement_agree_with_the_bits(scheme):
    assert len(scheme) == sum(scheme.stages) == len(scheme.bits)
    assert scheme.connected == sum(scheme.bits)
    assert scheme.sparsity == pytest.approx(scheme.bits.count(False) / len(scheme))
    assert tuple(bit for part in scheme.per_stage for bit in part) == scheme.bits
    assert tuple(len(part) for part in scheme.per_stage) == scheme.stages
    assert ~~scheme == scheme and scheme.connected + (~scheme).connected == len(scheme)
    tensor = scheme.as_tensor()
    assert tensor.dtype == torch.bool and tensor.tolist() == list(scheme.bits)


def test_the_written_example_of_the_design():
    scheme = Scheme.parse("110-0011", stages=(3, 4))
    assert scheme.bits == (True, True, False, False, False, True, True)
    assert (str(scheme), scheme.connected, scheme.sparsity) == ("110-0011", 4, 1 - 4 / 7)
    assert Scheme.parse('{"bits": "110-0011", "stages": [3, 4]}') == scheme


def test_full_and_none_connect_all_blocks_and_no_block():
    assert (str(Scheme.full((2, 3))), str(Scheme.none([2, 3]))) == ("11-111", "00-000")
    assert (Scheme.full((2, 3)).sparsity, Scheme.none((2, 3)).sparsity) == (0.0, 1.0)


def test_all_of_lists_every_scheme_once_in_lexicographic_order():
    schemes = [str(scheme) for scheme in Scheme.all_of((1, 2))]
    assert schemes == ["0-00", "0-01", "0-10", "0-11", "1-00", "1-01", "1-10", "1-11"]


def test_all_of_refuses_more_than_20_blocks_when_called():
    Scheme.all_of((20,))
    with pytest.raises(ValueError, match=r"at most 20 blocks .* got \(10, 11\)"):
        Scheme.all_of((10, 11))


def test_random_repeats_with_its_generator_and_has_fair_bits():
    stages = (4, 5)
    draws = [Scheme.random(stages, g) for g in [torch.Generator().manual_seed(3)] for _ in range(2000)]
    again = Scheme.random(stages, torch.Generator().manual_seed(3))
    assert again == draws[0]
    share = torch.stack([scheme.as_tensor() for scheme in draws]).double().mean(0)
    assert (share - 0.5).abs().max() < 0.06  # five standard errors


@given(st.integers(0, 9), st.integers(0, 2**31))
def test_random_connects_exactly_as_many_blocks_as_asked(connected, seed):
    scheme = Scheme.random((4, 5), torch.Generator().manual_seed(seed), connected=connected)
    assert scheme.connected == connected and scheme.stages == (4, 5)


def test_random_with_a_count_reaches_every_choice():
    generator = torch.Generator().manual_seed(0)
    assert len({Scheme.random((2, 3), generator, connected=2) for _ in range(500)}) == 10  # 5 choose 2


def test_a_scheme_cannot_be_changed():
    with pytest.raises(AttributeError):
        Scheme.full((2,)).bits = (False, False)


BAD = {
    "letters": ("11x-0011", (3, 4), "written with 0 and 1 and single dashes .* got '11x-0011"),
    "empty text": ("", None, "written with 0 and 1"),
    "blank text": ("  ", (3,), "written with 0 and 1"),
    "double dash": ("11--00", None, "single dashes"),
    "outer dash": ("11-00-", None, "single dashes"),
    "other digits": ("١١-٠٠", None, "written with 0 and 1"),
    "wrong stage lengths": ("1100-011", (3, 4), r"for stages of \(4, 3\) blocks, but stages of \(3, 4\)"),
    "too few stages": ("110", (3, 4), r"stages \(3, 4\) needs 7 bits, one per block, got 3"),
    "too many bits": ([1] * 8, (3, 4), "needs 7 bits, one per block, got 8"),
    "flat without stages": ([1, 0, 1], None, "does not say where its stages end: give `stages`"),
    "empty list": ([], None, "does not say where its stages end"),
    "empty stage": ([[1, 0], []], None, r"positive numbers of blocks of the stages, .* got \(2, 0\)"),
    "mixed nesting": ([[1, 0], 1], (2, 1), r"block 0 of a scheme must be 0, 1, False or True"),
    "per-stage lengths": ([[1, 0], [1]], (1, 2), r"for stages of \(2, 1\) blocks"),
    "a two": ([0, 2, 1], (3,), r"block 1 of a scheme must be 0, 1, False or True, got 2"),
    "floats": ([0.0, 1.0], (2,), r"block 0 .* got 0\.0"),
    "float tensor": (torch.rand(3), (3,), r"block 0 .* got 0\.\d"),
    "texts in a list": (["1", "0"], (2,), r"block 0 .* got '1'"),
    "None": (None, (2,), r"a scheme must be a text .* got None"),
    "a number": (110, (3,), r"a scheme must be a text .* got 110"),
    "bytes": (b"110", (3,), r"got b'110'"),
    "a set": ({0, 1}, (2,), r"got \{0, 1\}"),
    "0-d tensor": (torch.tensor(True), (1,), r"a scheme must be a text .* got True"),
    "broken JSON": ('{"bits": "110"', None, "looks like JSON but cannot be read"),
    "deep JSON": ("[" * 100_000, None, "looks like JSON but cannot be read"),
    "JSON without bits": ('{"scheme": "110"}', None, r'needs the key "bits" .* got \[\'scheme\'\]'),
    "extra keys": ({"bits": "110", "note": 1}, None, 'may have "stages"'),
    "two stage claims": ({"bits": [1, 0, 1], "stages": [1, 2]}, (2, 1), r"for stages of \(1, 2\) blocks"),
    "scheme of another network": (Scheme.full((3,)), (2, 1), r"for stages of \(3,\) blocks, .* \"11-1\""),
    "a mapping in a mapping": ({"bits": {"bits": "110"}}, None, 'needs the key "bits"'),
    "stages without end": ("110", (10**12,), r"at most 10,000 in all, got \(1000000000000,\)"),
    "mapping with stages of 0": ({"bits": [1], "stages": 0}, (1,), "stages must be .* got 0"),
    "stages a number": ("110", 3, r"stages must be the positive numbers .* got 3"),
    "stages empty": ("110", (), r"stages must be .* got \(\)"),
    "stages zero": ("110", (3, 0), "stages must be"),
    "stages a text": ("110", "3", "stages must be"),
    "stages floats": ("110", (1.5, 1.5), "stages must be"),
    "stages bools": ("11", (True, True), "stages must be"),
}


@pytest.mark.parametrize("value, stages, message", BAD.values(), ids=BAD.keys())
def test_bad_input_says_what_was_expected_and_what_came(value, stages, message):
    with pytest.raises(ValueError, match=message) as caught:
        Scheme.parse(value, stages)
    assert len(str(caught.value)) < 400


@given(st.one_of(st.text(), st.lists(st.one_of(st.integers(), st.floats(), st.text(), st.none()))))
def test_any_other_input_is_a_scheme_or_a_value_error(value):
    with contextlib.suppress(ValueError):
        assert isinstance(Scheme.parse(value, (2, 1)), Scheme)


ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.binary(max_size=3),
        st.sampled_from(["11-0", "110", '{"bits": "110"}', "[1, 1, 0]"]),
        st.integers(0, 2).map(np.int64), st.integers(0, 2).map(torch.tensor), st.booleans().map(np.bool_),
        st.lists(st.integers(0, 2), max_size=4).map(np.array),
        st.lists(st.integers(0, 2), max_size=4).map(torch.tensor),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.tuples(inner, inner), st.sets(st.integers(0, 2)),
        st.dictionaries(st.sampled_from(["bits", "stages", "x"]), inner, max_size=3),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(value=ANYTHING, stages=ANYTHING)
def test_schemes_answer_anything_with_a_scheme_or_a_sentence(value, stages):
    generator = torch.Generator().manual_seed(0)
    calls = [
        lambda: Scheme(value, stages),
        lambda: Scheme(value, (2, 1)),
        lambda: Scheme.parse(value, stages),
        lambda: Scheme.parse(value, (2, 1)),
        lambda: Scheme.parse(json.dumps(value, default=str)),
        lambda: Scheme.full(stages),
        lambda: Scheme.none(stages),
        lambda: next(Scheme.all_of(stages)),
        lambda: Scheme.random(stages, generator),
        lambda: Scheme.random((2, 1), generator, connected=value),
    ]
    for call in calls:
        try:
            scheme = call()
        except ValueError as error:
            assert len(str(error).split()) >= 4, str(error)
        else:
            assert all(type(bit) is bool for bit in scheme.bits) and all(type(n) is int for n in scheme.stages)
            assert Scheme.parse(str(scheme)) == scheme


def test_stages_and_bits_of_numpy_and_torch_are_stored_as_pythons():
    written = Scheme.parse("110-01")
    for stages in (np.array([3, 2]), torch.tensor([3, 2]), [np.int64(3), torch.tensor(2)], torch.Size([3, 2])):
        for bits in (
            np.array([1, 1, 0, 0, 1]),
            torch.tensor([1, 1, 0, 0, 1]) > 0,
            [np.int8(1), 1, np.bool_(0), 0, True],
        ):
            assert Scheme(bits, stages) == Scheme.parse(bits, stages) == written
            assert json.dumps(Scheme(bits, stages).stages) == "[3, 2]"
        assert Scheme.full(stages).stages == (3, 2) and len(list(Scheme.all_of(stages))) == 32
    assert Scheme.parse([np.array([1, 1, 0]), torch.tensor([0, 1])]) == written
    assert Scheme.random((3, 2), torch.Generator(), connected=np.int64(2)).connected == 2


@pytest.mark.parametrize("connected", [-1, 4, 1.0, True, "2"])
def test_random_refuses_a_count_that_does_not_fit(connected):
    with pytest.raises(ValueError, match=r"connected must be a whole number in 0\.\.3"):
        Scheme.random((1, 2), torch.Generator(), connected=connected)


def test_random_refuses_a_seed_in_place_of_a_generator():
    with pytest.raises(ValueError, match=r"must be a torch\.Generator, got 0"):
        Scheme.random((1, 2), 0)
