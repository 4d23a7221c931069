import pytest

from napari_volseg.runs import Control, ControlReader, write_control


def test_nothing_is_asked_at_first(tmp_path):
    assert ControlReader(tmp_path)() == Control()


def test_changes_add_up_and_are_seen_at_once(tmp_path):
    read = ControlReader(tmp_path)
    write_control(tmp_path, pause=True)
    assert read() == Control(pause=True)
    write_control(tmp_path, preview_box=(1, (0, 2, 4), (8, 16, 32)))
    assert read() == Control(pause=True, preview_box=(1, (0, 2, 4), (8, 16, 32)))
    write_control(tmp_path, pause=False, stop=True)
    assert read().stop
    assert not read().pause
    (tmp_path / "control.json").unlink()
    assert read() == Control()


def test_an_unknown_field_is_refused(tmp_path):
    with pytest.raises(TypeError):
        write_control(tmp_path, halt=True)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"preview_box": [1, [2], 3]}', "null"]
)
def test_a_malformed_file_changes_nothing(tmp_path, text):
    read = ControlReader(tmp_path)
    write_control(tmp_path, pause=True)
    assert read().pause
    (tmp_path / "control.json").write_text(text)
    assert read() == Control(pause=True)


def test_an_unchanged_file_is_not_read_again(tmp_path, monkeypatch):
    read = ControlReader(tmp_path)
    write_control(tmp_path, pause=True)
    read()

    def fail(*args, **kwargs):
        raise AssertionError("read again")

    monkeypatch.setattr("pathlib.Path.read_text", fail)
    assert read().pause
