from __future__ import annotations

import pytest

from ean_lib.data import DATASETS, load_data

KNOWN = ", ".join(DATASETS)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar1O", {}, "unknown dataset 'cifar1O'. Did you mean 'cifar10'"),
        ("mnist", {}, f"Known are: {KNOWN}"),
        (7, {}, f"unknown dataset 7. Known are: {KNOWN}"),
        ("image_folder:", {}, "unknown dataset 'image_folder:'. Did you mean 'image_folder:PATH'"),
        ("cifar10", {"val_pre_class": 5}, "no option 'val_pre_class'. Did you mean 'val_per_class'?"),
    ],
)
def test_unknown_names_and_options_are_refused_with_close_matches(name, options, message, tmp_path):
    with pytest.raises(ValueError) as error:
        load_data(name, root=tmp_path, **options)
    assert message in str(error.value)
