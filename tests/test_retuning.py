import errno
import io
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Box
from napari_volseg.instances import find_seeds, segment
from napari_volseg.retuning import Failed, Retuned, Retuner, files, serve
from napari_volseg.retuning.server import _Server, name_alike
from napari_volseg.sample_data import make_sample
from napari_volseg.targets import make_targets

PLAIN = "import sys; from napari_volseg.retuning import serve; "
SERVER = [sys.executable, "-c", PLAIN + "serve(sys.stdin.buffer, sys.stdout.buffer)"]


@pytest.fixture(scope="module")
def maps():
    labels = make_sample("vesicles", (12, 64, 64)).labels_ZYX
    return make_targets(labels, (30, 8, 8)).values_CZYX


@pytest.fixture
def retuner():
    retuner = Retuner(SERVER)
    yield retuner
    retuner.close()


def wait(
    retuner: Retuner, ticket: int | None = None, lane: str = "box"
) -> Retuned | Failed:
    """Return the next answer, or the one with a ticket."""
    pause = threading.Event()
    for _ in range(6000):
        answer = retuner.poll(lane)
        if isinstance(answer, Failed):
            return answer
        if answer is not None and ticket in (None, answer.ticket):
            return answer
        pause.wait(0.01)
    raise TimeoutError


def test_answers_are_those_of_segment(maps, retuner):
    retuner.load(maps)
    for config in (InstancesConfig(), InstancesConfig(mask=0.9, min_size=200)):
        answer = wait(retuner, retuner.request(config))

        np.testing.assert_array_equal(answer.labels_ZYX, segment(maps, config))
        np.testing.assert_array_equal(answer.seeds_ZYX, find_seeds(maps, config))
        assert answer.box == Box((0, 0, 0), (12, 64, 64))
        assert answer.seconds > 0
    assert retuner.poll() is None


def test_seeds_come_when_they_are_asked_for(maps, retuner):
    retuner.load(maps)
    config = InstancesConfig()

    without = wait(retuner, retuner.request(config, seeds=False))
    answer = wait(retuner, retuner.request(config))

    assert without.seeds_ZYX.size == 0
    np.testing.assert_array_equal(without.labels_ZYX, answer.labels_ZYX)
    np.testing.assert_array_equal(answer.seeds_ZYX, find_seeds(maps, config))


def test_a_box_is_cut_at_the_maps(maps, retuner):
    retuner.load(maps)

    ticket = retuner.request(InstancesConfig(), Box((4, 10, 20), (5, 50, 99)))
    answer = wait(retuner, ticket)

    assert answer.box == Box((4, 10, 20), (5, 50, 64))
    expected = segment(maps[:, 4:5, 10:50, 20:64], InstancesConfig())
    np.testing.assert_array_equal(answer.labels_ZYX, expected)


def test_the_newest_request_wins(maps, retuner):
    retuner.load(maps)
    shares = np.linspace(0.1, 0.9, 200).tolist()
    tickets = [retuner.request(InstancesConfig(mask=share)) for share in shares]
    seen = []
    while not seen or seen[-1] != tickets[-1]:
        answer = wait(retuner)
        assert isinstance(answer, Retuned)
        seen.append(answer.ticket)

    assert seen == sorted(seen)
    assert len(seen) < 20
    np.testing.assert_array_equal(
        answer.labels_ZYX, segment(maps, InstancesConfig(mask=shares[-1]))
    )


def test_new_maps_replace_the_old_ones(maps, retuner):
    retuner.load(maps)
    wait(retuner, retuner.request(InstancesConfig()))
    retuner.load(np.zeros((3, 2, 5, 6), np.uint8))

    answer = wait(retuner, retuner.request(InstancesConfig()))

    assert answer.labels_ZYX.shape == (2, 5, 6)
    assert not answer.labels_ZYX.any()


def test_later_changes_of_the_array_have_no_effect(maps, retuner):
    mine = maps.copy()
    retuner.load(mine)
    mine[:] = 0

    answer = wait(retuner, retuner.request(InstancesConfig()))

    assert answer.labels_ZYX.any()


def test_a_request_needs_maps(retuner):
    with pytest.raises(ValueError, match="load maps"):
        retuner.request(InstancesConfig())


def test_a_refused_request_does_not_end_the_server(maps, retuner):
    retuner.load(np.zeros((2, 4, 4, 4), np.uint8))
    refused = wait(retuner, retuner.request(InstancesConfig()))
    retuner.load(maps)
    answer = wait(retuner, retuner.request(InstancesConfig()))

    assert isinstance(refused, Failed)
    assert "mask, boundary and distance" in refused.message
    assert isinstance(answer, Retuned)


def test_a_dead_server_is_reported_for_every_request(maps, retuner):
    retuner.load(maps)
    retuner._process.kill()

    first = wait(retuner)
    retuner.request(InstancesConfig())
    second = wait(retuner)

    assert isinstance(first, Failed)
    assert "ended" in first.message
    assert second == first


def test_what_a_server_said_last_is_part_of_the_report():
    retuner = Retuner([sys.executable, "-c", "raise SystemExit('no room left')"])
    failed = wait(retuner)
    retuner.close()

    assert isinstance(failed, Failed)
    assert "exit code 1" in failed.message
    assert "no room left" in failed.message


def test_closing_ends_the_process_and_removes_its_files(maps):
    retuner = Retuner(SERVER)
    retuner.load(maps)
    retuner.request(InstancesConfig())

    retuner.close()
    retuner.close()

    assert retuner._process.returncode is not None
    assert not retuner._folder.exists()
    assert retuner.poll() is None


def test_files_are_private(retuner):
    assert retuner._folder.stat().st_mode & 0o077 == 0


def test_a_server_ends_with_its_client_and_removes_the_files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    server = subprocess.Popen(SERVER, stdin=subprocess.PIPE)
    server.stdin.write(json.dumps({"folder": str(folder)}).encode() + b"\n")
    server.stdin.close()

    assert server.wait(timeout=60) == 0
    assert not folder.exists()


def test_the_client_side_loads_no_library_that_segments():
    code = (
        "import sys, napari_volseg.retuning as r\n"
        f"r.Retuner({SERVER!r}).close()\n"
        "print([m for m in ('numba', 'cc3d', 'edt', 'fastremap', 'torch', 'scipy')"
        " if m in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


def test_serving_plain_streams(maps, tmp_path):
    np.save(tmp_path / "maps.npy", maps)
    wish = {"start": [0, 0, 0], "stop": [12, 64, 64]}
    lines = [
        {"ticket": 1, "config": {}, **wish},
        {"folder": str(tmp_path)},
        {"maps": "maps.npy"},
        {"ticket": 2, "config": {"mask": 0.4}, **wish},
        {"ticket": 3, "config": {"mask": 5}, **wish},
    ]
    text = b"\n".join(json.dumps(line).encode() for line in lines)
    stdout = io.BytesIO()

    serve(io.BytesIO(b"not json\n[]\n" + text), stdout)

    answers = [json.loads(line) for line in stdout.getvalue().splitlines()]
    assert [answer["ticket"] for answer in answers] == [1, 2, 3]
    assert "none are loaded" in answers[0]["error"]
    assert answers[1]["seconds"] > 0
    assert "mask" in answers[2]["error"]
    np.testing.assert_array_equal(
        np.load(tmp_path / answers[1]["labels"]),
        segment(maps, InstancesConfig(mask=0.4)),
    )


def test_without_room_for_an_answer_it_says_so(maps, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    np.save(tmp_path / "maps.npy", maps)
    monkeypatch.setattr(np, "save", full)
    monkeypatch.setattr(files, "reserve", full)
    lines = [
        {"folder": str(tmp_path)},
        {"maps": "maps.npy"},
        {"ticket": 1, "config": {}, "start": [0, 0, 0], "stop": [12, 64, 64]},
    ]
    text = b"\n".join(json.dumps(line).encode() for line in lines)
    stdout = io.BytesIO()

    serve(io.BytesIO(text), stdout)

    assert "No space left" in json.loads(stdout.getvalue())["error"]
    assert [path.name for path in tmp_path.iterdir()] == ["maps.npy"]


def test_what_is_looked_at_never_changes_and_the_rest_is_used_again(maps, retuner):
    retuner.load(maps)
    configs = [InstancesConfig(mask=share) for share in (0.2, 0.4, 0.6, 0.8, 0.9)]
    part = wait(retuner, retuner.request(configs[0], seeds=False)).labels_ZYX[2:5]

    for config in configs[1:]:
        answer = wait(retuner, retuner.request(config, seeds=False))
        np.testing.assert_array_equal(answer.labels_ZYX, segment(maps, config))

    np.testing.assert_array_equal(part, segment(maps, configs[0])[2:5])
    # Those looked at first and last, and the one before that is free again.
    assert len(list(retuner._folder.glob("shared-*"))) == 3


@pytest.mark.parametrize("is_reserved_by_the_system", [True, False])
def test_what_is_written_is_what_others_map(
    is_reserved_by_the_system, tmp_path, monkeypatch
):
    if not is_reserved_by_the_system:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    name, array = files.SharedArrays(tmp_path).take((3, 4, 5))
    array[:] = np.arange(60).reshape(3, 4, 5)

    np.testing.assert_array_equal(np.load(tmp_path / name), array)


def test_files_of_another_size_go(maps, retuner):
    retuner.load(maps)
    for stop in (12, 8, 6, 4):
        box = Box((0, 0, 0), (stop, 64, 64))
        answer = wait(retuner, retuner.request(InstancesConfig(), box, seeds=False))
        assert answer.labels_ZYX.shape == box.shape

    assert len(list(retuner._folder.glob("shared-*"))) <= 2


def test_an_array_is_free_again_where_there_was_no_room_for_seeds(
    maps, tmp_path, monkeypatch
):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    np.save(tmp_path / "maps.npy", maps)
    wish = {"config": {}, "start": [0, 0, 0], "stop": [12, 64, 64]}
    server = _Server()
    server.open(tmp_path)
    server.load("maps.npy")
    monkeypatch.setattr(server, "_save", full)

    for ticket in range(3):
        message = {"ticket": ticket, "lane": "box", **wish}
        assert "No space left" in server.answer(message, server.maps)["error"]

    assert len(list(tmp_path.glob("shared-*"))) == 1


def test_slices_are_answered_on_a_lane_of_their_own(maps, retuner):
    retuner.load(maps)
    whole = wait(retuner, retuner.request(InstancesConfig()))
    box, config = Box((4, 10, 20), (9, 50, 64)), InstancesConfig(mask=0.6)

    newest = retuner.request(config)
    ticket = retuner.request(config, box, "slices")
    answer = wait(retuner, ticket, "slices")

    assert answer.box == box
    assert answer.lane == "slices"
    expected = segment(maps[:, *box.slices], config)
    assert len(np.unique(answer.labels_ZYX)) == len(np.unique(expected))
    np.testing.assert_array_equal(answer.labels_ZYX > 0, expected > 0)
    both = (answer.labels_ZYX > 0) & (whole.labels_ZYX[box.slices] > 0)
    same = answer.labels_ZYX == whole.labels_ZYX[box.slices]
    assert same[both].mean() > 0.9
    assert wait(retuner, newest).lane == "box"


def test_names_follow_the_largest_overlap():
    known = np.array([[[5, 5, 5, 9, 9, 0, 0]]], np.int32)
    labels = np.array([[[1, 1, 2, 2, 2, 3, 0]]], np.int32)

    assert name_alike(labels, known).tolist() == [[[5, 5, 9, 9, 9, 10, 0]]]


def test_an_id_is_given_once_only():
    known = np.array([[[5, 5, 5, 5, 0]]], np.int32)
    labels = np.array([[[1, 2, 2, 2, 0]]], np.int32)

    assert name_alike(labels, known).tolist() == [[[6, 5, 5, 5, 0]]]


def test_nothing_has_no_names():
    nothing = np.zeros((1, 2, 2), np.int32)

    assert not name_alike(nothing, nothing).any()
