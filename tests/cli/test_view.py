"""``volseg view``: in a browser on this machine, or in napari."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import urllib.request
import zlib

import numpy as np
import psutil
import pytest

from napari_volseg.cli import main, neuroglancing, view
from napari_volseg.io import write_hdf5
from napari_volseg.views import Shown

NM = (40.0, 10.0, 10.0)


@pytest.fixture
def shown(em, workplace, cells) -> list[Shown]:
    """Write an image, maps and instances."""
    shape = cells.image.shape_ZYX
    maps = np.stack([np.full(shape, value, np.uint8) for value in (1, 2, 3)])
    write_hdf5(workplace / "out.h5", {"maps": maps, "instances": cells.labels_ZYX}, NM)
    return [
        Shown("raw", f"{em}:raw", "image"),
        Shown("maps", f"{workplace / 'out.h5'}:maps", "maps"),
        Shown("instances", f"{workplace / 'out.h5'}:instances", "labels"),
    ]


def listening() -> set[str]:
    connections = psutil.Process().net_connections(kind="inet")
    return {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}


def viewer_at(address: str):
    import neuroglancer

    return neuroglancer.server.global_server.viewers[address.rstrip("/").split("/")[-1]]


def layers_of(address: str):
    return {layer.name: layer.layer for layer in viewer_at(address).state.layers}


def volume_of(address: str, name: str):
    """Return what answers the requests for a layer's voxels."""
    url = layers_of(address)[name].source[0].url
    return viewer_at(address).volume_manager.volumes[url.rsplit(".", 1)[-1]]


def request(address: str, url: str, start, end) -> np.ndarray:
    """Ask for voxels over HTTP, as the browser does."""
    server = address.partition("/v/")[0]
    token = url.removeprefix("python://volume/")
    with urllib.request.urlopen(f"{server}/neuroglancer/info/{token}") as answer:
        encoding = json.load(answer)["encoding"]
    places = "/".join(",".join(map(str, place)) for place in ((1, 1, 1), start, end))
    with urllib.request.urlopen(
        f"{server}/neuroglancer/{encoding}/{token}/{places}"
    ) as answer:
        return np.load(io.BytesIO(zlib.decompress(answer.read())))


def test_only_this_machine_is_served_and_only_while_it_is_viewed(shown):
    before = listening()
    with neuroglancing.serving(shown) as address:
        assert listening() - before <= {"127.0.0.1"}
        assert "127.0.0.1" in listening()
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=20) as answer:
            assert answer.status == 200
    assert listening() == before


def test_image_maps_and_instances_are_layers_with_voxel_size(shown, cells):
    with neuroglancing.serving(shown) as address:
        layers = layers_of(address)
        assert list(layers) == ["raw", "mask", "boundary", "distance", "instances"]
        kinds = [layers[name].type for name in layers]
        assert kinds == ["image"] * 4 + ["segmentation"]
        volume = volume_of(address, "raw")
        assert volume.shape == cells.image.shape_ZYX
        metres = [scale * 1e9 for scale in volume.dimensions.scales]
        assert metres == pytest.approx(NM)


def test_the_voxels_that_a_browser_gets_are_those_of_the_files(shown, cells):
    start, end = (2, 3, 5), (6, 30, 20)
    box = tuple(slice(a, b) for a, b in zip(start, end, strict=True))
    expected = {
        "raw": cells.image.read(box)[0],
        "boundary": np.full((4, 27, 15), 2, np.uint8),
        "instances": cells.labels_ZYX[box].astype(np.uint32),
    }
    with neuroglancing.serving(shown) as address:
        for name, wanted in expected.items():
            got = request(address, layers_of(address)[name].source[0].url, start, end)
            np.testing.assert_array_equal(got, wanted)


def test_no_meshes_are_made(shown):
    with neuroglancing.serving(shown) as address:
        (source,) = layers_of(address)["instances"].source
        assert source.enable_default_subsources is False
        assert list(source.subsources) == ["default"]


def test_the_command_prints_the_address_and_waits(shown, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(view, "wait", lambda: seen.append(listening()))
    assert main(["view", "out.h5", "--image", "em.h5:raw", "--neuroglancer"]) == 0
    assert seen == [{"127.0.0.1"}]
    assert "open http://127.0.0.1:" in capsys.readouterr().out


@pytest.mark.usefixtures("shown")
def test_without_neuroglancer_a_sentence_says_what_to_install(failure, monkeypatch):
    monkeypatch.setitem(sys.modules, "neuroglancer", None)
    text = failure("view", "out.h5", "--neuroglancer")
    assert "napari-volseg[neuroglancer]" in text


@pytest.fixture
def started(monkeypatch):
    """Note the processes that would be started."""
    commands = []
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **kwargs: commands.append(command)
    )
    monkeypatch.setenv("DISPLAY", ":0")
    return commands


@pytest.mark.usefixtures("shown")
def test_napari_is_started_on_the_volumes(started, capsys):
    assert main(["view", "out.h5", "--image", "em.h5:raw[0:4]"]) == 0
    (command,) = started
    assert command[:3] == [sys.executable, "-m", "napari_volseg.widgets.looking"]
    volumes = json.loads(command[3])
    assert volumes[0]["source"] == "em.h5:raw[0:4]"
    assert {volume["kind"] for volume in volumes} == {"image", "maps", "labels"}
    assert "napari opens" in capsys.readouterr().out
    assert "napari" not in {name.partition(".")[0] for name in vars(view)}


@pytest.mark.usefixtures("shown")
def test_without_a_screen_or_napari_a_sentence_says_so(failure, started, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform.startswith("linux"):
        assert "there is no screen" in failure("view", "out.h5")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "napari is not installed" in failure("view", "out.h5")
    assert started == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to look at"),
        (["nothing"], "is not there"),
        (["--image", "none.h5"], "none.h5"),
        (["--port", "70000"], "--port"),
    ],
)
def test_what_can_be_mended_is_one_sentence(failure, arguments, message):
    assert message in failure("view", *arguments)
