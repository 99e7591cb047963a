"""The English texts follow from the nodes; ComfyUI hands out all languages."""

from __future__ import annotations

import copy
import json
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from lags_pack.tests.derived import locales as i18n

Info = dict[str, Any]


@pytest.fixture(scope="module")
def told(server: Any) -> Info:
    """What the running ComfyUI says of all nodes."""
    return server.object_info()


def stale(told: Info) -> dict[str, tuple[str | None, str | None]]:
    """Texts of locales/en that are not the nodes': (in the file, as the node says)."""
    written, said = i18n.flat(i18n.read("en")), i18n.flat(i18n.english(told))
    paths = written.keys() | said.keys()
    pairs = {path: (written.get(path), said.get(path)) for path in paths}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def _new_node(told: Info) -> None:
    told["LAGSNew"] = copy.deepcopy(told["LAGSKSampler"])


def _no_node(told: Info) -> None:
    del told["LAGSDemoModel"]


def _new_input(told: Info) -> None:
    told["LAGSKSampler"]["input"]["optional"]["new"] = ["INT", {"tooltip": "New."}]


def _no_input(told: Info) -> None:
    del told["LAGSKSampler"]["input"]["required"]["strength"]


def _inside(told: Info) -> Info:
    return told["LAGSLoadWeight"]["input"]["required"]["reward"][1]["options"][0]["inputs"]


def _new_nested(told: Info) -> None:
    _inside(told)["required"]["new"] = ["INT", {"tooltip": "New."}]


def _nested_tooltip(told: Info) -> None:
    _inside(told)["required"]["auto_nats"][1]["tooltip"] = "Changed."


def _new_socket(told: Info) -> None:
    told["LAGSCombineWeights"]["input"]["required"]["weights"][1]["template"]["max"] += 1


def _new_output(told: Info) -> None:
    for key, value in {"output": "INT", "output_name": "new", "output_tooltips": "New."}.items():
        told["LAGSKSampler"][key].append(value)


def _no_output(told: Info) -> None:
    for key in ("output", "output_name", "output_tooltips"):
        told["LAGSKSampler"][key].pop()


def _new_category(told: Info) -> None:
    told["LAGSKSampler"]["category"] += "/new"


def _new_type(told: Info) -> None:
    told["LAGSKSampler"]["output"][1] = "LAGS_NEW"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (_new_node, "nodeDefs.LAGSNew.display_name"),
        (_no_node, "nodeDefs.LAGSDemoModel.display_name"),
        (_new_input, "nodeDefs.LAGSKSampler.inputs.new.name"),
        (_no_input, "nodeDefs.LAGSKSampler.inputs.strength.tooltip"),
        (_new_nested, "nodeDefs.LAGSLoadWeight.inputs.reward_new.name"),
        (_nested_tooltip, "nodeDefs.LAGSLoadWeight.inputs.reward_auto_nats.tooltip"),
        (_new_socket, "nodeDefs.LAGSCombineWeights.inputs.weights_weight16.name"),
        (_new_output, "nodeDefs.LAGSKSampler.outputs.2.name"),
        (_no_output, "nodeDefs.LAGSKSampler.outputs.1.tooltip"),
        (_new_category, "main.nodeCategories.new"),
        (_new_type, "main.dataTypes.LAGS_NEW"),
    ],
)
def test_a_change_of_the_nodes_is_noticed(
    told: Info, change: Callable[[Info], None], path: str
) -> None:
    changed = copy.deepcopy(told)
    change(changed)
    assert path in stale(changed)


def test_parts_of_comfyui_keep_its_own_translation(told: Info) -> None:
    assert "sampling" in told["LAGSKSampler"]["category"].split("/")
    assert "sampling" in told["KSampler"]["category"].split("/")
    for language in i18n.languages():
        main = i18n.read(language)["main"]
        assert "sampling" not in main["nodeCategories"]
        assert all(kind.startswith("LAGS_") for kind in main["dataTypes"])


def test_server_hands_out_all_languages(server: Any) -> None:
    with urllib.request.urlopen(f"{server.url}/i18n", timeout=30) as answer:  # noqa: S310
        served = json.load(answer)
    for language in i18n.languages():
        files = i18n.read(language)
        assert served[language] == {**files["main"], "nodeDefs": files["nodeDefs"]}, language
