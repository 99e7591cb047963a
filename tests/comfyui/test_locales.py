"""The English texts follow from the nodes; ComfyUI hands out all languages."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from lags_pack.tests.derived import locales as i18n

Info = dict[str, Any]


def stale(told: Info) -> dict[str, tuple[str | None, str | None]]:
    """Texts of locales/en that are not the nodes': (in the file, as the node says)."""
    written, said = i18n.flat(i18n.read("en")), i18n.flat(i18n.english(told))
    paths = written.keys() | said.keys()
    pairs = {path: (written.get(path), said.get(path)) for path in paths}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


SAMPLER, NEW = "LAGSKSampler", ["INT", {"tooltip": "New."}]
OUTPUT = {"output": "INT", "output_name": "new", "output_tooltips": "New."}


def inputs(told: Info, node: str = SAMPLER, kind: str = "required") -> Info:
    return told[node]["input"][kind]


def inside(told: Info) -> Info:
    """The inputs that a choice brings."""
    choice = inputs(told, "LAGSLoadWeight")["reward"][1]["options"][0]
    return choice["inputs"]["required"]


def growing(told: Info) -> Info:
    return inputs(told, "LAGSCombineWeights")["weights"][1]["template"]


CHANGES: dict[str, Callable[[Info], Any]] = {
    "nodeDefs.LAGSNew.display_name": lambda told: told.update(LAGSNew=told[SAMPLER]),
    "nodeDefs.LAGSDemoModel.display_name": lambda told: told.pop("LAGSDemoModel"),
    "nodeDefs.LAGSKSampler.inputs.new.name": (
        lambda told: inputs(told, kind="optional").update(new=NEW)
    ),
    "nodeDefs.LAGSKSampler.inputs.strength.tooltip": lambda told: inputs(told).pop("strength"),
    "nodeDefs.LAGSLoadWeight.inputs.reward_new.name": lambda told: inside(told).update(new=NEW),
    "nodeDefs.LAGSLoadWeight.inputs.reward_auto_nats.tooltip": (
        lambda told: inside(told)["auto_nats"][1].update(tooltip="Changed.")
    ),
    "nodeDefs.LAGSCombineWeights.inputs.weights_weight16.name": (
        lambda told: growing(told).update(max=growing(told)["max"] + 1)
    ),
    "nodeDefs.LAGSKSampler.outputs.2.name": (
        lambda told: [told[SAMPLER][key].append(value) for key, value in OUTPUT.items()]
    ),
    "nodeDefs.LAGSKSampler.outputs.1.tooltip": (
        lambda told: [told[SAMPLER][key].pop() for key in OUTPUT]
    ),
    "main.nodeCategories.new": (
        lambda told: told[SAMPLER].update(category=told[SAMPLER]["category"] + "/new")
    ),
    "main.dataTypes.LAGS_NEW": lambda told: told[SAMPLER]["output"].__setitem__(1, "LAGS_NEW"),
}


@pytest.mark.parametrize("path", CHANGES)
def test_a_change_of_the_nodes_is_noticed(info, path):
    changed = copy.deepcopy(info)
    CHANGES[path](changed)
    assert path in stale(changed)


def test_parts_of_comfyui_keep_its_own_translation(info):
    assert "sampling" in info["LAGSKSampler"]["category"].split("/")
    assert "sampling" in info["KSampler"]["category"].split("/")
    for language in i18n.languages():
        main = i18n.read(language)["main"]
        assert "sampling" not in main["nodeCategories"]
        assert all(kind.startswith("LAGS_") for kind in main["dataTypes"])


def test_server_hands_out_all_languages(server):
    served = server._json("/i18n")
    for language in i18n.languages():
        files = i18n.read(language)
        assert served[language] == {**files["main"], "nodeDefs": files["nodeDefs"]}, language
