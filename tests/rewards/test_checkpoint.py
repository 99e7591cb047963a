"""Reading weight files: attack files, damaged files, and the published wrappers."""

from __future__ import annotations

import json
import math
import pickle  # noqa: S403
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lags_pack.rewards import clip
from lags_pack.rewards.aesthetic import aesthetic_head
from lags_pack.rewards.checkpoint import CheckpointError, fill, read_json, read_weights
from lags_pack.rewards.hps import hps_encoder
from lags_pack.tests import reward_files
from lags_pack.tests.reward_files import Payload
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b.bias": torch.tensor([1.5], dtype=torch.float16),
    "steps": torch.tensor(7),
}
TORCH = [".pt", ".pth", ".bin", ".ckpt"]
SAFE = [".safetensors", ".sft"]
CAPITALS = [".PT", ".SAFETENSORS"]


def assert_weights(found: dict[str, Tensor]) -> None:
    assert found.keys() == WEIGHTS.keys()
    for key, value in WEIGHTS.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value)


def refused(path: Path) -> str:
    """The message with which a weight file is refused; it names the file and a remedy."""
    with pytest.raises(CheckpointError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert str(path) in message
    assert any(word in message for word in ("download it", "Get the file", "expected"))
    return message


def among_weights(path: Path, payload: Payload) -> None:
    torch.save({"state_dict": WEIGHTS, "callback": payload}, path)


def old_format(path: Path, payload: Payload) -> None:
    torch.save({**WEIGHTS, "c": payload}, path, _use_new_zipfile_serialization=False)


Attack = Callable[[Path, Payload], object]
PICKLED: dict[str, Attack] = {
    "bare": lambda path, payload: path.write_bytes(pickle.dumps(payload, protocol=2)),
    "text": lambda path, payload: path.write_bytes(pickle.dumps({"a": payload}, protocol=0)),
}
ATTACKS: dict[str, Attack] = PICKLED | {
    "zipped": lambda path, payload: torch.save(payload, path),
    "among weights": among_weights,
    "old format": old_format,
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("suffix", TORCH + SAFE)
def test_a_payload_is_refused_and_does_not_run(attack: str, suffix: str, tmp_path: Path) -> None:
    path, mark = tmp_path / f"model{suffix}", tmp_path / "mark"
    ATTACKS[attack](path, Payload(mark))
    message = refused(path)
    assert not mark.exists()
    assert ("could run code" if suffix in TORCH else "no safetensors file") in message


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_payloads_work_where_pickles_are_run(attack: str, tmp_path: Path) -> None:
    """So that the test above cannot pass for a payload that does nothing."""
    path, mark = tmp_path / "model.pt", tmp_path / "mark"
    ATTACKS[attack](path, Payload(mark))
    if attack in PICKLED:
        pickle.loads(path.read_bytes())  # noqa: S301
    else:
        torch.load(path, weights_only=False)
    assert mark.exists()


# ---- damaged files ----------------------------------------------------------------------------


def safetensors_file(header: dict[str, Any] | bytes, data: bytes = bytes(64)) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(start: int, end: int, dtype: str = "F32", shape: tuple[int, ...] = (4,)) -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


BROKEN_SAFETENSORS = {
    "not even a length": b"\x01\x02",
    "giant header": struct.pack("<Q", 2**63 - 1) + b"{}",
    "header longer than the file": struct.pack("<Q", 2**40) + b"{}" + bytes(64),
    "header is no JSON": safetensors_file(b"{{{"),
    "header is a list": safetensors_file(b"[]"),
    "header is no UTF-8": safetensors_file(b'{"\xff": 1}'),
    "overlap": safetensors_file({"a": entry(0, 16), "b": entry(8, 24)}, bytes(24)),
    "same bytes twice": safetensors_file({"a": entry(0, 16), "b": entry(0, 16)}, bytes(16)),
    "hole": safetensors_file({"a": entry(0, 16), "b": entry(32, 48)}, bytes(48)),
    "ends before it starts": safetensors_file({"a": entry(16, 0)}, bytes(16)),
    "beyond the end": safetensors_file({"a": entry(0, 16)}, bytes(8)),
    "more data than tensors": safetensors_file({"a": entry(0, 16)}, bytes(64)),
    "shape of another size": safetensors_file({"a": entry(0, 16, shape=(5,))}, bytes(16)),
    "shape that overflows": safetensors_file({"a": entry(0, 16, shape=(2**62, 2**62))}, bytes(16)),
    "negative shape": safetensors_file({"a": entry(0, 16, shape=(-4,))}, bytes(16)),
    "unknown kind of number": safetensors_file({"a": entry(0, 16, dtype="F7")}, bytes(16)),
}


@pytest.mark.parametrize("content", BROKEN_SAFETENSORS.values(), ids=BROKEN_SAFETENSORS)
def test_broken_safetensors_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert "is damaged or no safetensors file" in refused(path)
    # The header made here is a good one: they are refused for their fault.
    path.write_bytes(safetensors_file({"a": entry(0, 16), "b": entry(16, 32)}, bytes(32)))
    assert read_weights(path).keys() == {"a", "b"}


@pytest.mark.parametrize("kind", ["safetensors", "zip", "old"])
def test_files_cut_anywhere_are_refused(kind: str, tmp_path: Path) -> None:
    """Of safetensors every cut, in the length, in the header and in the data."""
    path, step = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.pt"), 13
    if kind == "safetensors":
        save_file(WEIGHTS, path)
        step = 1
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for length in {*range(1, len(whole), step), len(whole) - 1}:
        path.write_bytes(whole[:length])
        refused(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_changed_byte_ends_in_tensors_or_in_a_clear_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    save_file(WEIGHTS, path) if suffix == ".safetensors" else torch.save(WEIGHTS, path)
    whole, refusals = path.read_bytes(), 0
    for position in range(0, len(whole), 1 if suffix == ".safetensors" else 5):
        for change in (0x01, 0x80):
            changed = bytearray(whole)
            changed[position] ^= change
            path.write_bytes(changed)
            try:
                assert all(isinstance(value, Tensor) for value in read_weights(path).values())
            except CheckpointError:
                refusals += 1
    assert refusals > 20


def test_no_file_an_empty_file_a_folder_and_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    assert "There is no file" in refused(tmp_path / "model.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    assert "There is no file" in refused(tmp_path / "folder.safetensors")
    for name in ("empty.safetensors", "empty.pt"):
        (tmp_path / name).touch()
        assert "is empty (0 bytes)" in refused(tmp_path / name)
    for name in ("model.onnx", "model.gguf", "model"):
        (tmp_path / name).write_bytes(bytes(64))
        message = refused(tmp_path / name)
        assert f"is a {Path(name).suffix or 'nameless'} file" in message
        assert ".safetensors, or .pt" in message


ONE = torch.zeros(1)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ([ONE], "holds a list"),
        (ONE, "holds a Tensor"),
        (7, "holds a int"),
        ({}, "holds nothing"),
        ({"state_dict": {}}, "holds nothing"),
        ({"a": ONE, "lr": 0.1}, "holds lr beside"),
        ({"state_dict": {"a": ONE, "name": "x"}}, "holds name beside"),
        ({0: ONE}, "holds 0 beside"),
        ({"epoch": 3, "weights": {"a": ONE}}, "holds epoch, weights"),
    ],
)
def test_anything_but_named_tensors_is_refused(content: object, fault: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pt")
    message = refused(tmp_path / "model.pt")
    assert fault in message and "expected named tensors" in message


# ---- good files -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", TORCH + SAFE + CAPITALS)
def test_good_files_are_read_in_every_format_and_wrapper(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    if suffix.lower() in SAFE:
        save_file(WEIGHTS, path)
        assert_weights(read_weights(path))
        return
    for wrapper in (None, "state_dict", "model", "module"):
        content = {"epoch": 3, "name": "x", wrapper: WEIGHTS} if wrapper else WEIGHTS
        for zip_format in (True, False):
            torch.save(content, path, _use_new_zipfile_serialization=zip_format)
            assert_weights(read_weights(path))


# ---- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused_by_its_key(value: float, tmp_path: Path) -> None:
    """Through both ways into a network, `fill` and transformers' own loading."""
    for load, path, key in (
        (lambda path, _: aesthetic_head(path), reward_files.aesthetic(tmp_path), "layers.4.weight"),
        (hps_encoder, reward_files.hps(tmp_path / "hps"), "visual.ln_post.bias"),
        (clip.image_encoder, reward_files.clip_vision(tmp_path / "vision"), VISION_BIAS),
        (clip.image_encoder, reward_files.pickscore(tmp_path), "logit_scale"),
    ):
        spoil(path, key, value)
        with pytest.raises(CheckpointError) as caught:
            load(path, torch.float32)
        for part in (str(path), f"not finite in {key}:", "Download it again"):
            assert part in str(caught.value)


VISION_BIAS = "vision_model.encoder.layers.1.mlp.fc1.bias"


def spoil(path: Path, key: str, value: float) -> None:
    """Replace one number of one weight in a file."""
    safe = path.suffix == ".safetensors"
    content = load_file(path) if safe else torch.load(path, weights_only=True)
    content.get("state_dict", content)[key].view(-1)[-1] = value
    save_file(content, path) if safe else torch.save(content, path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_8_bit_weights_are_read_and_looked_at(dtype: torch.dtype, tmp_path: Path) -> None:
    path, key = reward_files.pickscore(tmp_path), "visual_projection.weight"
    small = {name: value.to(dtype) for name, value in load_file(path).items()}
    save_file(small, path)
    net = clip.image_encoder(path, torch.float32).net
    assert torch.equal(net.get_parameter(key), small[key].float())
    small[key] = torch.full((24, 32), math.nan).to(dtype)
    save_file(small, path)
    with pytest.raises(CheckpointError, match=f"not finite in {key}"):
        clip.image_encoder(path, torch.float32)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_weights_of_no_fractions_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    """Quantised ones loaded without a word, and scored 0."""
    path = reward_files.pickscore(tmp_path)
    save_file({name: value.to(dtype) for name, value in load_file(path).items()}, path)
    with pytest.raises(CheckpointError):
        clip.image_encoder(path, torch.float32)
    module = nn.Linear(2, 2)
    weights = {
        name: torch.ones(value.shape).to(dtype) for name, value in module.state_dict().items()
    }
    with pytest.raises(CheckpointError, match=r"types: bias is (int8|complex64), weight is"):
        fill(module, weights, path, torch.float32)


# ---- fill -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_fill_copies_all_in_the_asked_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).train()
    own = module.state_dict().items()
    weights = {key: torch.ones(value.shape, dtype=value.dtype) for key, value in own}
    fill(module, weights, tmp_path, dtype)
    assert module[0].weight.dtype == dtype
    assert module[1].num_batches_tracked.dtype == torch.int64
    assert not module.training and not any(p.requires_grad for p in module.parameters())
    for value in weights.values():
        value.zero_()  # the file's memory, which goes away
    assert all(bool((value == 1).all()) for value in module.state_dict().values())


def test_fill_lists_what_is_missing_surplus_and_of_another_shape(tmp_path: Path) -> None:
    module, path = nn.Sequential(*(nn.Linear(2, 2) for _ in range(6))), tmp_path / "model.pt"
    weights = module.state_dict()
    del weights["0.weight"]
    weights["1.bias"] = torch.zeros(3)
    weights |= {f"extra.{i}": torch.zeros(1) for i in range(10)}
    with pytest.raises(CheckpointError) as caught:
        fill(module, weights, path, torch.float32)
    listed = ", ".join(f"extra.{i}" for i in range(8))
    assert str(caught.value).startswith(
        f"{path} does not hold this model. Keys missing: 0.weight; surplus: {listed} and 2 more; "
        "of other shapes or types: 1.bias is (3,), not (2,). Choose the file"
    )


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"a": 1', "is no JSON"),
        (b"", "is no JSON"),
        (b'{"a": "\xff\xfe"}', "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "is no JSON"),
        (b"[1, 2]", "holds a list; expected a JSON object"),
        (b"null", "holds a NoneType; expected a JSON object"),
    ],
    ids=["cut", "empty", "not UTF-8", "deep", "long number", "list", "null"],
)
def test_what_is_no_json_object_is_refused(content: bytes, fault: str, tmp_path: Path) -> None:
    """What is one is read, and a missing file is an empty one."""
    path = tmp_path / "config.json"
    assert read_json(path) == {}
    path.write_text('{"a": [1, "ü"]}', encoding="utf-8")
    assert read_json(path) == {"a": [1, "ü"]}
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_json(path)
    assert str(path) in str(caught.value) and fault in str(caught.value)
