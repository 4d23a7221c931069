import pytest

from napari_volseg.config import load_config
from napari_volseg.devices import choose_compute, choose_gpus
from napari_volseg.errors import DataError


def _config(*overrides):
    return load_config("quick", overrides)


@pytest.fixture
def machine(monkeypatch):
    """Pretend that this machine has some GPUs."""

    def pretend(n_gpus):
        monkeypatch.setattr("torch.cuda.is_available", lambda: n_gpus > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: n_gpus)
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **kwargs: True)
        monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)

    return pretend


@pytest.mark.parametrize(
    ("override", "gpus"),
    [
        ("system.training.num_gpus=1", (0,)),
        ("system.training.num_gpus=3", (0, 1, 2)),
        ("system.training.gpus=[0,2]", (0, 2)),
        ("system.training.gpus=[3]", (3,)),
    ],
)
def test_gpus_are_chosen_by_number_or_by_name(machine, override, gpus):
    machine(4)
    config = _config(override)
    assert choose_compute(config).device == "cuda"
    assert choose_gpus(config, "cuda") == gpus


@pytest.mark.parametrize(
    ("overrides", "channels_last"),
    [
        (["optimization.precision=32"], True),
        (["optimization.precision=bf16-mixed"], True),
        (["optimization.precision=bf16-mixed", "model.rsunet_norm=instance"], True),
        (["optimization.precision=32", "model.rsunet_norm=instance"], False),
        (["optimization.precision=32", "model.architecture=monai_unet"], False),
    ],
)
def test_gpus_take_the_layout_that_is_faster_there(machine, overrides, channels_last):
    machine(1)
    assert choose_compute(_config(*overrides)).channels_last == channels_last


def test_no_gpu_asked_for_is_the_processor(machine):
    machine(4)
    config = _config("system.training.num_gpus=0")
    assert choose_compute(config).device == "cpu"
    assert choose_gpus(config, "cpu") == ()


@pytest.mark.parametrize(
    ("n_gpus", "overrides", "message"),
    [
        (2, ["num_gpus=4"], "num_gpus is 4, .* finds 2 here: set it to 2; .* times 2"),
        (0, ["num_gpus=4"], "num_gpus is 4, but PyTorch finds no CUDA GPU here"),
        (0, ["gpus=[0,1]"], "set num_gpus=1 to train on the processor; .* times 2"),
        (2, ["gpus=[0,2]"], r"GPUs here are \[0, 1\]: set it to \[0\]"),
        (2, ["gpus=[1,1]"], r"gpus is \[1, 1\].* set it to \[1\]"),
        (2, ["num_processes=2"], r"num_processes is 2, .* set it to 1 \(num_gpus"),
    ],
)
def test_what_is_not_there_is_refused_with_what_works(
    machine, n_gpus, overrides, message
):
    machine(n_gpus)
    config = _config(*(f"system.training.{text}" for text in overrides))
    with pytest.raises(DataError, match=message):
        choose_gpus(config, choose_compute(config).device)


def test_hidden_gpus_are_named_as_the_cause(machine, monkeypatch):
    machine(0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(DataError, match="CUDA_VISIBLE_DEVICES hides every GPU"):
        choose_compute(_config("system.device=cuda"))


def test_several_gpus_on_the_processor_by_choice_are_refused(machine):
    machine(4)
    config = _config("system.device=cpu", "system.training.num_gpus=4")
    with pytest.raises(DataError, match=r"system\.device is cpu: set num_gpus=1"):
        choose_gpus(config, choose_compute(config).device)


def test_a_gpu_asked_for_but_none_taken_is_refused(machine):
    machine(1)
    config = _config("system.device=cuda", "system.training.num_gpus=0")
    with pytest.raises(DataError, match="no GPU is asked for"):
        choose_gpus(config, choose_compute(config).device)
