"""The scheme explorer: connect and disconnect each block of a network, and see what attention buys.

The same ES module (js/scheme_explorer.js and what it imports) is used in two ways. In Jupyter and Colab it is an
anywidget, and where a network is given, Python scores the schemes that the reader chooses. In a published page there
is no kernel: the output's text/html form embeds the module, the table and a host of ten lines, and asks nobody for
anything.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import traitlets

from ean_lib.checks import check
from ean_lib.data import Data
from ean_lib.learning.measure import count_macs, count_parameters
from ean_lib.networks import Network
from ean_lib.networks.official import PUBLISHED_SCHEMES
from ean_lib.runs import read_json
from ean_lib.schemes import Scheme
from ean_lib.search import SearchResult
from ean_lib.supernet import Scorer
from ean_lib.widgets.modules import join_modules, join_styles
from ean_lib.widgets.page import PageWidget
from ean_lib.widgets.picture import draw_scheme

PARTS = ("numbers", "chart", "search")
ONE_NUMBER = ("supernet", "extra_parameters", "extra_macs")  # columns with a number per scheme
SEVERAL = ("alone", "time")  # columns with a list of numbers per scheme


def compact_search(result: SearchResult) -> dict[str, Any]:
    """What the explorer replays of a search by the controller: schemes by their text, probabilities in thousandths.

    Raises:
        ValueError: if the search is by another method, whose steps have no probabilities.
    """
    check("the method of a search to replay", result.method, result.method == "reinforce", "'reinforce'")
    steps = result.history
    return {
        "seed": result.config.seed,
        "lambda_val": result.config.lambda_val,
        "lambda_spa": result.config.lambda_spa,
        "schemes": [step["schemes"] for step in steps],
        "probabilities": [[round(1000 * p) for p in step["probabilities"]] for step in steps],
        "rewards": [[round(r, 2) for r in step["rewards"]] if "rewards" in step else None for step in steps],
        "baseline": [round(step["baseline"], 2) if "baseline" in step else None for step in steps],
    }


class SchemeExplorer(PageWidget):
    """An interactive drawing of a network's connection scheme, with accuracy and cost.

    Args:
        table: what is known of the schemes, as `tools/make_explorer_table.py` writes it: the file or its content.
        net: a supernet. The schemes chosen are then scored by Python, once each.
        data: what net is scored on, by a `Scorer`.
        scorer: such a `Scorer` instead of net and data, say one that recalibrates; what it knows is shown at once.
        search: a search by the controller, to be replayed; what it has scored is shown at once.
        name: of this explorer among those of a page; part of the address that links to a state.
        scheme: shown first; None: the one that the search found, or else the first block alone.
        show: which parts stand below the network, of "numbers", "chart" and "search".

    Attributes:
        scheme: the scheme that is shown, as a text; set it, or observe it.

    Raises:
        ValueError: if table, network, search and scheme do not fit together, the name has other characters than
            letters, digits, - and _, or there is no such part to show.
    """

    _esm = join_modules("scheme_explorer.js")
    _css = join_styles(*(f"explorer_{part}.css" for part in ("theme", "network", "controls", "cards", "charts")))
    table = traitlets.Dict().tag(sync=True, page=True)
    show = traitlets.List().tag(sync=True, page=True)
    scheme = traitlets.Unicode().tag(sync=True, page=True)
    answers = traitlets.Dict().tag(sync=True, page=True)
    asked = traitlets.Dict().tag(sync=True)
    live = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self,
        table: Mapping[str, Any] | Path | str | None = None,
        *,
        net: Network | None = None,
        data: Data | None = None,
        scorer: Scorer | None = None,
        search: SearchResult | None = None,
        name: str = "explorer",
        scheme: Scheme | str | None = None,
        show: Sequence[str] = PARTS,
    ) -> None:
        check("show", list(show), set(show) <= set(PARTS), f"some of {', '.join(PARTS)}")
        if (net is None) != (data is None):
            raise ValueError("A network is scored on data: give both `net` and `data`, or neither.")
        self._scorer = scorer if net is None else Scorer(net, data)
        if isinstance(table, Path | str):
            table = read_json(Path(table))
        table = dict(table or {})
        if self._scorer is not None:
            table = with_scorer(table, self._scorer)
        if search is not None:
            table = with_search(table, search)
        table = checked_table(table)
        first_block_alone = [block == 0 for block in range(sum(table["stages"]))]
        first = scheme or table.get("found") or first_block_alone
        scheme = str(Scheme.parse(first, table["stages"]))
        super().__init__(name, table=table, show=list(show), scheme=scheme, live=self._scorer is not None)

    @traitlets.validate("scheme")
    def _check_scheme(self, proposal: Any) -> str:
        return str(Scheme.parse(proposal["value"], self.table["stages"]))

    @traitlets.observe("asked")
    def _answer(self, change: Any) -> None:
        """Score the scheme that the page asks for; an error goes to the page too, since nobody else would see it."""
        text = change["new"].get("scheme", "")
        if self._scorer is None or "supernet" in self.answers.get(text, {}):
            return
        try:
            scheme = Scheme.parse(text, self.table["stages"])
            parameters, macs = self._costs(scheme)
            answer = {"supernet": self._scorer([scheme])[0], "extra_parameters": parameters, "extra_macs": macs}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}", "request": change["new"].get("request")}
        self.answers = {**self.answers, text: answer}

    def _costs(self, scheme: Scheme) -> tuple[int, int]:
        """Extra parameters and multiply-accumulates of the pruned network, over those of the backbone."""
        image, *_ = next(iter(self._scorer.split.batches(1)))
        network = self._scorer.net.prune(scheme)
        backbone = self._scorer.net.prune(Scheme.none(scheme.stages))
        parameters = count_parameters(network) - count_parameters(backbone)
        macs = count_macs(network.fuse(), image.shape) - count_macs(backbone.fuse(), image.shape)
        return parameters, macs

    def describe(self) -> str:
        """The scheme shown, and its accuracy where it is known."""
        scheme = Scheme.parse(self.scheme)
        values = self.table.get("supernet") or {}
        if isinstance(values, Sequence):
            values = {self.scheme: values[int(self.scheme.replace("-", ""), 2)]}
        value = self.answers.get(self.scheme, {}).get("supernet", values.get(self.scheme))
        accuracy = "" if value is None else f", {value:.2f}% in the supernet"
        return f"Scheme {scheme}: {scheme.connected} of {len(scheme)} blocks connected{accuracy}."

    def draw(self) -> str:
        """The network as an SVG."""
        return draw_scheme(Scheme.parse(self.scheme), str(self.table.get("attention", "")), self.describe())

    def page_state(self) -> dict[str, Any]:
        """Without the errors, which were a kernel's."""
        known = {text: answer for text, answer in self.answers.items() if "error" not in answer}
        return super().page_state() | {"answers": known}

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle, metadata = super()._repr_mimebundle_(**kwargs)
        return bundle | {"image/svg+xml": self.draw()}, metadata


def with_scorer(table: Mapping[str, Any], scorer: Scorer) -> dict[str, Any]:
    """The table with what a scorer's network says of itself, and with all accuracies that the scorer knows."""
    net = scorer.net
    known = {str(scheme): value for scheme, value in scorer.known.items()}
    table = facts(net) | table | {"supernet": known}
    is_same = list(table["stages"]) == list(net.stages)
    check("the table's stages", table["stages"], is_same, f"those of the network, {list(net.stages)}")
    return table


def with_search(table: Mapping[str, Any], search: SearchResult) -> dict[str, Any]:
    """The table with a search to be replayed, and with all accuracies that it has paid for."""
    table = {"stages": list(search.scheme.stages)} | table
    table |= {"search": compact_search(search), "found": str(search.scheme)}
    known = table.get("supernet") or {}
    is_list_of_all = not isinstance(known, Mapping)
    table["supernet"] = known if is_list_of_all else {**known, **search.values}
    return table


def facts(net: Network) -> dict[str, Any]:
    """What a table says of a network; a published scheme is of use to the explorer where it fits the stages."""
    modules = [module for _, _, module in net.connections() if module is not None]
    attention = type(modules[0]).__name__.lower() if modules else ""
    published = str(PUBLISHED_SCHEMES.get(attention, ""))
    stages = list(net.stages)
    return {"title": "a network in this notebook", "attention": attention, "stages": stages, "published": published}


def checked_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with numbers of numpy and torch as Python's.

    Raises:
        ValueError: if the table does not name its stages, a list has not one entry per scheme, or a value is no finite
            number; the scheme and the column are named.
    """
    if "stages" not in table:
        raise ValueError("An explorer needs a table with the key 'stages', a network with data, or a search.")
    stages = [int(blocks) for blocks in table["stages"]]
    checked = {**table, "stages": stages}
    for column in (*ONE_NUMBER, *SEVERAL):
        values = table.get(column)
        if values is not None and len(values) > 0:
            checked[column] = checked_column(column, values, stages)
    for sampled in (table.get("search") or {}).get("schemes", ()):
        for text in sampled:
            Scheme.parse(text, stages)
    return checked


def checked_column(name: str, values: Mapping[str, Any] | Sequence[Any], stages: Sequence[int]) -> Any:
    """A column of the table: a list with an entry per scheme in order, or entries by the scheme's text."""
    if isinstance(values, Mapping):
        schemes = {text: str(Scheme.parse(text, stages)) for text in values}
        return {schemes[text]: checked_entry(name, schemes[text], value) for text, value in values.items()}
    total = 2 ** sum(stages)
    if len(values) != total:
        raise ValueError(f"The table's {name!r} must have {total} entries, one per scheme, but has {len(values)}.")
    return [
        checked_entry(name, str(scheme), value) for scheme, value in zip(Scheme.all_of(stages), values, strict=True)
    ]


def checked_entry(column: str, scheme: str, value: Any) -> Any:
    """What a column says of a scheme; None, where it was not measured, stays None."""
    if column in ONE_NUMBER:
        return checked_number(column, scheme, value)
    if value is None:
        return None
    if isinstance(value, Real) or not hasattr(value, "__iter__"):
        raise ValueError(f"The table's {column!r} of scheme {scheme} must be a list of numbers, got {value!r}.")
    return [checked_number(column, scheme, number) for number in value]


def checked_number(column: str, scheme: str, value: Any) -> float | int | None:
    """The value as Python's number; None, where it was not measured, stays None."""
    if value is None:
        return None
    if hasattr(value, "item"):  # numpy's and torch's
        value = value.item()
    if not isinstance(value, Real) or isinstance(value, bool) or not isfinite(value):
        raise ValueError(
            f"The table's {column!r} of scheme {scheme} must be a finite number, or None where it was not measured,"
            f" got {value!r}."
        )
    return int(value) if isinstance(value, Integral) else float(value)
