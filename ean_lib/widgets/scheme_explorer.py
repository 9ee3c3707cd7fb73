"""The scheme explorer: connect and disconnect each block of a network, and see what attention buys.

The same ES module (scheme_explorer.js) is used in two ways. In Jupyter and Colab it is an anywidget, and where a
network is given, Python scores the schemes that the reader chooses. In a published page there is no kernel: the
output's text/html form embeds the module, the table and a host of ten lines, and asks nobody for anything.
"""

from collections.abc import Mapping, Sequence
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
from ean_lib.widgets.page import PageWidget
from ean_lib.widgets.picture import draw_scheme

PARTS = ("numbers", "chart", "search")


def compact_search(result: SearchResult) -> dict[str, Any]:
    """What the explorer replays of a search by the controller: schemes by their index, probabilities in thousandths.

    Raises:
        ValueError: if the search is by another method, whose steps have no probabilities.
    """
    check("the method of a search to replay", result.method, result.method == "reinforce", "'reinforce'")
    steps = result.history
    return {
        "seed": result.config.seed,
        "lambda_spa": result.config.lambda_spa,
        "schemes": [[int(text.replace("-", ""), 2) for text in step["schemes"]] for step in steps],
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

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    table = traitlets.Dict().tag(sync=True, page=True)
    show = traitlets.List().tag(sync=True, page=True)
    scheme = traitlets.Unicode().tag(sync=True, page=True)
    answers = traitlets.Dict().tag(sync=True, page=True)
    asked = traitlets.Dict().tag(sync=True)
    live = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self, table: Mapping[str, Any] | Path | str | None = None, *, net: Network | None = None,
        data: Data | None = None, scorer: Scorer | None = None, search: SearchResult | None = None,
        name: str = "explorer", scheme: Scheme | str | None = None, show: Sequence[str] = PARTS,
    ) -> None:  # fmt: skip
        check("show", list(show), set(show) <= set(PARTS), f"some of {', '.join(PARTS)}")
        if (net is None) != (data is None):
            raise ValueError("A network is scored on data: give both `net` and `data`, or neither.")
        self._scorer = scorer if net is None else Scorer(net, data)
        table = dict(read_json(Path(table)) if isinstance(table, Path | str) else table or {})
        if self._scorer is not None:
            net, known = self._scorer.net, {str(scheme): value for scheme, value in self._scorer.known.items()}
            table = facts(net) | table | {"supernet": known}
            fits = list(table["stages"]) == list(net.stages)
            check("the table's stages", table["stages"], fits, f"those of the network, {list(net.stages)}")
        if search is not None:
            table = {"stages": list(search.scheme.stages)} | table
            table |= {"search": compact_search(search), "found": str(search.scheme)}
            known = table.get("supernet") or {}
            table["supernet"] = {**known, **search.values} if isinstance(known, Mapping) else known
        check_table(table)
        first = scheme or table.get("found") or [i == 0 for i in range(sum(table["stages"]))]
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
            found = {"supernet": self._scorer([scheme])[0], "extra_parameters": parameters, "extra_macs": macs}
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}", "request": change["new"].get("request")}
        self.answers = {**self.answers, text: found}

    def _costs(self, scheme: Scheme) -> tuple[int, int]:
        """Extra parameters and multiply-accumulates of the pruned network, over those of the backbone."""
        image = next(iter(self._scorer.split.batches(1)))[0]
        pruned = [self._scorer.net.prune(asked) for asked in (scheme, Scheme.none(scheme.stages))]
        own, backbone = [(count_parameters(net), count_macs(net.fuse(), image.shape)) for net in pruned]
        return own[0] - backbone[0], own[1] - backbone[1]

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


def facts(net: Network) -> dict[str, Any]:
    """What a table says of a network; a published scheme is of use to the explorer where it fits the stages."""
    modules = [type(module).__name__.lower() for *_, module in net.connections() if module is not None]
    attention = modules[0] if modules else ""
    published = str(PUBLISHED_SCHEMES.get(attention, ""))
    stages = list(net.stages)
    return {"title": "a network in this notebook", "attention": attention, "stages": stages, "published": published}


def check_table(table: Mapping[str, Any]) -> None:
    """Raise a ValueError unless the table names its stages and its lists have one entry per scheme."""
    if "stages" not in table:
        raise ValueError("An explorer needs a table with the key 'stages', a network with data, or a search.")
    total = 2 ** len(Scheme.none(table["stages"]))
    for key in ("supernet", "extra_parameters", "extra_macs"):
        values = table.get(key) or {}
        if isinstance(values, Mapping):
            for text in values:
                Scheme.parse(text, table["stages"])
        elif len(values) != total:
            raise ValueError(f"The table's {key!r} must have {total} entries, one per scheme, but has {len(values)}.")
