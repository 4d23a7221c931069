"""Hostile, broken, foreign and newer model files are refused in one sentence.

Archives of other people's making (bioimage.io packages, MONAI bundles) are not
read at all: they are refused as what they are.
"""

from __future__ import annotations

import json
import os
import pickle
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from napari_volseg.checkpoint import (
    load_model,
    save_model,
)
from napari_volseg.checkpoint import model_metadata as describe
from napari_volseg.checkpoint_folder import load_checkpoint, save_checkpoint
from napari_volseg.config import load_config
from napari_volseg.errors import DataError
from napari_volseg.events import Notice
from napari_volseg.inference import predict
from napari_volseg.models import FORMAT_VERSION, read_model_info
from napari_volseg.networks import build_network, plan_pyramid
from napari_volseg.volume import Volume

PATCH = (8, 16, 16)
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def parts():
    config = load_config("quick", ["model.filters=[4,6]"])
    pyramid = plan_pyramid(config.model, (30, 8, 8), PATCH)
    network = build_network(config.model, 1, pyramid)
    metadata = describe(config, pyramid, 1, (30.0, 8.0, 8.0), PATCH, 12, {})
    return network.state_dict(), metadata


@pytest.fixture
def weights(parts):
    return {key: tensor.clone() for key, tensor in parts[0].items()}


@pytest.fixture
def metadata(parts):
    return json.loads(json.dumps(parts[1]))


@pytest.fixture
def checkpoint(tmp_path, weights, metadata) -> Path:
    path = tmp_path / "last.ckpt"
    torch.save({"network": weights, "metadata": metadata, "step": 3}, path)
    return path


@pytest.fixture
def model(tmp_path, weights, metadata) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, weights, metadata)
    return path


def refusal(path: Path) -> str:
    """Return the sentence with which a file is refused; it names the file."""
    with pytest.raises(DataError) as caught:
        load_model(path)
    text = str(caught.value)
    assert path.name in text
    assert "\n" not in text
    assert len(text) < 1000
    return text


class MakesFolder:
    """Unpickling it makes a folder: the trace of code that ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


class Hyperparameters:
    """What Lightning stores beside weights when it is asked to."""


def rewrite(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Write a checkpoint again, stored as PyTorch does, with its members changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def with_pickle(source: Path, target: Path, pickled: bytes) -> Path:
    def change(name: str, data: bytes) -> bytes:
        return pickled if name.endswith("data.pkl") else data

    return rewrite(source, target, change)


# What would run code


@pytest.mark.parametrize("forced", ["", "1"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path, legacy, forced):
    path, trace = tmp_path / "evil.ckpt", tmp_path / "trace"
    state = {"network": MakesFolder(trace), "metadata": {}}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    program = (
        "import sys; from pathlib import Path; import torch\n"
        "from napari_volseg.checkpoint import load_model\n"
        "from napari_volseg.errors import DataError\n"
        "try: load_model(Path(sys.argv[1]))\n"
        "except DataError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        env=os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": forced},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert str(path) in done.stdout
    assert "any code" in done.stdout
    assert not trace.exists()


def test_the_trap_of_these_tests_works(tmp_path):
    pickle.loads(pickle.dumps(MakesFolder(tmp_path / "trace")))
    assert (tmp_path / "trace").is_dir()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_plain_pickle_is_refused_whatever_its_protocol(tmp_path, protocol):
    path, trace = tmp_path / "old.ckpt", tmp_path / "trace"
    path.write_bytes(pickle.dumps(MakesFolder(trace), protocol))
    refusal(path)
    assert not trace.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_code_inside_an_archive_is_refused_whatever_its_protocol(
    tmp_path, checkpoint, protocol
):
    trace = tmp_path / "trace"
    state = {"network": MakesFolder(trace), "metadata": {}}
    path = tmp_path / "evil.ckpt"
    with_pickle(checkpoint, path, pickle.dumps(state, protocol))
    assert "code" in refusal(path)
    assert not trace.exists()


def test_a_run_folder_of_someone_else_is_resumed_from_no_pickle(tmp_path):
    trace = tmp_path / "trace"
    folder = tmp_path / "checkpoints"
    save_checkpoint(folder, {"x": MakesFolder(trace)}, 1, best=False, keep=1)
    with pytest.raises(DataError, match="mkdir"):
        load_checkpoint(folder)
    assert not trace.exists()


def test_a_whole_network_is_refused_and_a_state_dict_asked_for(tmp_path):
    path = tmp_path / "whole.ckpt"
    torch.save(nn.Linear(2, 2), path)
    assert "state dict" in refusal(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused_as_a_program(tmp_path):
    path = tmp_path / "script.ckpt"
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    assert "TorchScript" in refusal(path)


def test_a_lightning_checkpoint_with_classes_names_the_class(tmp_path):
    path = tmp_path / "lightning.ckpt"
    content = {"state_dict": {}, "hyper_parameters": Hyperparameters()}
    torch.save(content, path)
    assert "Hyperparameters" in refusal(path)


def test_a_lightning_checkpoint_of_plain_values_is_not_ours(tmp_path):
    path = tmp_path / "lightning.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(2)}, "epoch": 3}, path)
    assert "not a checkpoint of a volseg run" in refusal(path)


def test_a_monai_bundle_is_not_read(tmp_path):
    path = tmp_path / "bundle.ckpt"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("configs/train.json", '{"x": "$__import__(\'os\').getcwd()"}')
    assert "not a checkpoint" in refusal(path)


@pytest.mark.parametrize("inner", ["rdf.yaml", "network.py", "weights.pt", "more.zip"])
def test_a_package_of_bioimage_io_is_not_read(tmp_path, inner):
    path = tmp_path / "package.ckpt"
    with zipfile.ZipFile(path, "w") as package:
        package.writestr("rdf.yaml", "source: file:///etc/hostname")
        if inner != "rdf.yaml":
            package.writestr(inner, b"PK\x03\x04")
    assert "not a checkpoint" in refusal(path)


def test_a_pt2_archive_is_not_read(tmp_path):
    path = tmp_path / "program.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("program/archive_format", "pt2")
        archive.writestr("program/models/model.json", "{}")
    assert "not a checkpoint" in refusal(path)


# What is broken or something else


@pytest.mark.parametrize("name", ["last.ckpt", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_incomplete(tmp_path, checkpoint, model, name, share):
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    assert "incomplete" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "web page"),
        (b"\n  <HTML><head></head></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"\x1f\x8b\x08" + b"\xff" * 100, "gzip"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in refusal(tmp_path / name)


def test_a_model_that_is_named_like_a_checkpoint_is_told(model, tmp_path):
    path = tmp_path / "renamed.ckpt"
    path.write_bytes(model.read_bytes())
    assert "a safetensors file" in refusal(path)


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_are_refused(tmp_path, name, seed):
    (tmp_path / name).write_bytes(np.random.default_rng(seed).bytes(10_000))
    refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, name):
    assert "not there" in refusal(tmp_path / name)
    (tmp_path / name).mkdir()
    assert "a folder" in refusal(tmp_path / name)
    if hasattr(os, "mkfifo"):
        (tmp_path / name).rmdir()
        os.mkfifo(tmp_path / name)
        assert "not a file" in refusal(tmp_path / name)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a device file")
@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_a_device_is_refused_without_reading_it(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/zero")
    assert "not a file" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    "member",
    [
        "../x",
        "/x",
        "C:\\x",
        "last/../../x",
        "last/data/C:x",
        "last/data/..\\x",
        "last/DATA/0",
        "last//x",
    ],
)
def test_a_member_that_would_lead_away_refuses_the_whole_archive(
    tmp_path, checkpoint, member
):
    path = rewrite(checkpoint, tmp_path / "odd.ckpt", lambda name, data: data)
    with zipfile.ZipFile(path, "a") as archive:
        assert any(name == "last/data/0" for name in archive.namelist())
        archive.writestr(member, b"")
    assert "members are not those of a checkpoint" in refusal(path)


def test_a_link_in_an_archive_is_refused(tmp_path, checkpoint):
    path = rewrite(checkpoint, tmp_path / "odd.ckpt", lambda name, data: data)
    link = zipfile.ZipInfo("last/data/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/hostname")
    assert "members are not those of a checkpoint" in refusal(path)


def test_a_flipped_byte_is_loaded_or_refused_but_never_crashes(checkpoint, rng):
    whole = checkpoint.read_bytes()
    outcomes = set()
    for position in rng.integers(0, len(whole), 40):
        data = bytearray(whole)
        data[position] ^= 0xFF
        checkpoint.write_bytes(data)
        try:
            outcomes.add(type(load_model(checkpoint)).__name__)
        except DataError:
            outcomes.add("DataError")
    assert "DataError" in outcomes


# What is too much


def test_an_archive_that_unpacks_to_much_more_is_refused(tmp_path):
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        with archive.open("archive/data/0", "w") as member:
            for _ in range(64):
                member.write(bytes(MEBIBYTE))
    assert path.stat().st_size < MEBIBYTE
    assert "would unpack" in refusal(path)


def test_an_archive_of_very_many_members_is_refused(tmp_path):
    path = tmp_path / "many.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(20_100):
            archive.writestr(f"archive/data/{i}", b"")
    assert "lists more than 20000" in refusal(path)


def test_very_many_arrays_in_one_place_are_refused(tmp_path, checkpoint):
    head = b"\x80\x02]("
    array = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x01tQ"
    pickled = head + array * 20_100 + b"e."
    path = with_pickle(checkpoint, tmp_path / "many.ckpt", pickled)
    assert "more than 20000 arrays" in refusal(path)


def test_200_000_keys_in_a_safetensors_header_are_refused(tmp_path):
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"{i:06}": entry for i in range(200_000)}).encode()
    path = tmp_path / "many.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert "far too many arrays" in refusal(path)


@pytest.mark.parametrize(
    ("opening", "closing"), [(b"]", b"a"), (b")", b"\x85"), (b"}K\x01", b"s")]
)
def test_a_deeply_nested_pickle_is_refused(tmp_path, checkpoint, opening, closing):
    n = 100_000
    pickled = b"\x80\x02" + opening * n + b"N" + closing * n + b"."
    path = with_pickle(checkpoint, tmp_path / "deep.ckpt", pickled)
    assert "deep" in refusal(path)


def test_a_few_bytes_that_stand_for_billions_of_values_are_refused(
    tmp_path, checkpoint
):
    laughs: list[object] = ["ha"] * 10
    for _ in range(10):
        laughs = [laughs] * 10
    path = tmp_path / "laughs.ckpt"
    with_pickle(checkpoint, path, pickle.dumps({"metadata": laughs}, 2))
    assert path.stat().st_size < MEBIBYTE
    assert "far too many values" in refusal(path)


def test_an_array_that_claims_more_than_is_stored_is_refused(tmp_path, checkpoint):
    def change(name: str, data: bytes) -> bytes:
        return data[:-4] if name.endswith("/data/0") else data

    refusal(rewrite(checkpoint, tmp_path / "short.ckpt", change))


def test_a_description_of_an_enormous_network_takes_no_memory(
    tmp_path, weights, metadata
):
    metadata["config"]["model"]["filters"] = [10**6, 10**6]
    path = tmp_path / "huge.safetensors"
    save_model(path, weights, metadata)
    assert "do not fit its network" in refusal(path)


def test_yaml_that_stands_for_billions_of_values_is_refused(tmp_path):
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    for i in range(1, 12):
        lines.append(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]")
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match="too many values"):
        load_config(path)
    path.write_text("data: &a {x: *a}")
    with pytest.raises(DataError, match=r"bomb\.yaml nests"):
        load_config(path)
    path.write_text("data: !!python/object/apply:os.getcwd []")
    with pytest.raises(DataError, match="not valid YAML"):
        load_config(path)


# What does not fit


def test_nan_and_infinite_weights_are_refused(tmp_path, weights, metadata):
    for value in (float("nan"), float("inf")):
        weights["heads.0.bias"][1] = value
        path = tmp_path / "model.safetensors"
        save_model(path, weights, metadata)
        assert "heads.0.bias" in refusal(path)


def test_weights_that_become_infinite_in_our_type_are_refused(
    tmp_path, weights, metadata
):
    weights["heads.0.bias"] = torch.full((3,), 1e300, dtype=torch.float64)
    path = tmp_path / "model.safetensors"
    save_model(path, weights, metadata)
    assert "infinite" in refusal(path)


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("fault", ["missing", "unknown", "misshapen"])
def test_arrays_that_do_not_fit_are_counted_and_five_are_named(
    tmp_path, weights, metadata, suffix, fault
):
    keys = list(weights)[:7]
    for i, key in enumerate(keys):
        tensor = weights.pop(key)
        if fault == "unknown":
            weights[key] = tensor
            weights[f"new.{i}"] = torch.zeros(1)
        elif fault == "misshapen":
            weights[key] = torch.zeros(*tensor.shape, 2, dtype=tensor.dtype)
    path = tmp_path / f"model.{suffix}"
    if suffix == "ckpt":
        torch.save({"network": weights, "metadata": metadata}, path)
    else:
        save_model(path, weights, metadata)
    text = refusal(path)
    assert "7 differences" in text
    word = "not (" if fault == "misshapen" else fault
    assert text.count(word) == 5


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({}, "no weights"),
        ([], "no weights"),
        ("weights", "no weights"),
        ({"heads.0.bias": "text", "b": 3.0}, "not arrays are heads.0.bias, b"),
        ({1: 2}, "not arrays are 1"),
    ],
)
def test_weights_of_another_kind_are_refused(tmp_path, metadata, network, message):
    path = tmp_path / "odd.ckpt"
    torch.save({"network": network, "metadata": metadata}, path)
    assert message in refusal(path)


@pytest.mark.parametrize("content", [{}, [], "text", 3, None, {"network": {}}])
def test_a_checkpoint_of_something_else_is_not_ours(tmp_path, content):
    path = tmp_path / "odd.ckpt"
    torch.save(content, path)
    assert "not a checkpoint of a volseg run" in refusal(path)


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format_version", FORMAT_VERSION + 1),
        ("format_version", "1"),
        ("config", {"modle": 1}),
        ("config", 3),
        ("in_channels", "many"),
        ("in_channels", 0),
        ("voxel_size", [1]),
        ("patch_size", None),
        ("down_factors", [[2, 2]]),
        ("down_factors", []),
        ("kernel_sizes", 7),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(
    tmp_path, weights, metadata, suffix, key, value
):
    metadata[key] = value
    path = tmp_path / f"model.{suffix}"
    if suffix == "ckpt":
        torch.save({"network": weights, "metadata": metadata}, path)
    else:
        save_model(path, weights, metadata)
    text = refusal(path)
    if value == FORMAT_VERSION + 1:
        assert "made by a newer version" in text


def header_of(model: Path) -> tuple[dict, bytes]:
    data = model.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


@pytest.mark.parametrize("fault", ["overlap", "hole", "overflow", "trailing"])
def test_a_safetensors_file_with_odd_places_is_refused(model, fault):
    header, data = header_of(model)
    keys = sorted(
        (k for k in header if k != "__metadata__"),
        key=lambda key: header[key]["data_offsets"],
    )
    offsets = header[keys[1]]["data_offsets"]
    if fault == "overlap":
        header[keys[1]]["data_offsets"] = [offsets[0] - 4, offsets[1] - 4]
    elif fault == "hole":
        for key in keys[1:]:
            header[key]["data_offsets"] = [o + 4 for o in header[key]["data_offsets"]]
        data = data + bytes(4)
    elif fault == "overflow":
        header[keys[1]]["shape"] = [2**62, 2**62]
    else:
        data = data + b"more"
    text = json.dumps(header).encode()
    model.write_bytes(struct.pack("<Q", len(text)) + text + data)
    refusal(model)


def test_an_image_of_other_channels_is_refused_with_both_numbers(model, tmp_path):
    image = Volume(np.zeros((2, 8, 16, 16), np.uint8), (30.0, 8.0, 8.0), "two")
    with pytest.raises(DataError, match=r"(?s)two.*2.*1|1.*two.*2"):
        list(predict(model, image, tmp_path, device="cpu"))


# What is read all the same


def test_a_checkpoint_from_a_gpu_is_read_without_one(tmp_path, checkpoint, weights):
    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return data
        assert b"X\x03\x00\x00\x00cpu" in data
        return data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")

    path = rewrite(checkpoint, tmp_path / "gpu.ckpt", change)
    loaded = load_model(path).network.state_dict()
    for key, tensor in weights.items():
        torch.testing.assert_close(loaded[key], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_are_converted_and_the_user_is_told(
    tmp_path, weights, metadata, dtype
):
    stored = {
        key: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for key, tensor in weights.items()
    }
    path = tmp_path / "model.safetensors"
    save_model(path, stored, metadata)
    loaded = load_model(path)
    name = str(dtype).removeprefix("torch.")
    assert loaded.notes == (
        f"The weights in model.safetensors are stored as {name} and used as float32.",
    )
    for key, tensor in loaded.network.state_dict().items():
        torch.testing.assert_close(tensor, stored[key].to(tensor.dtype), rtol=0, atol=0)


def test_a_prediction_tells_of_a_conversion(tmp_path, weights, metadata):
    weights["heads.0.bias"] = weights["heads.0.bias"].double()
    path = tmp_path / "model.safetensors"
    save_model(path, weights, metadata)
    image = Volume(np.zeros((8, 16, 16), np.uint8), (30.0, 8.0, 8.0), "dark")
    events = list(predict(path, image, tmp_path, device="cpu"))
    said = [event.message for event in events if isinstance(event, Notice)]
    assert any("stored as float64" in text for text in said)


def test_a_good_checkpoint_and_a_good_model_are_read(checkpoint, model, weights):
    for path in (checkpoint, model):
        loaded = load_model(path)
        assert loaded.notes == ()
        assert set(loaded.network.state_dict()) == set(weights)
    assert read_model_info(model).voxel_size == (30.0, 8.0, 8.0)
