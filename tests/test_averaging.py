import pytest
import torch

from napari_volseg.averaging import WeightAverage


def _network(value=0.0):
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 1, 1), torch.nn.BatchNorm3d(1))
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(value)
    return network


def _fill(network, value):
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(value)


def test_constant_weights_stay_what_they_are():
    network = _network(3.0)
    average = WeightAverage(network, 0.9)
    for _ in range(5):
        average.update(network)
    for weight in average.network.parameters():
        torch.testing.assert_close(weight, torch.full_like(weight, 3.0))


def test_the_average_is_the_one_that_is_defined():
    network = _network()
    average = WeightAverage(network, 0.5)
    expected = None
    for n, value in enumerate([1.0, 2.0, 4.0, 8.0, 16.0, -3.0, 5.0, 9.0, 1.0, 2.0]):
        _fill(network, value)
        average.update(network)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = value if n == 0 else decay * expected + (1 - decay) * value
        assert float(average.network[0].bias.detach()) == pytest.approx(expected)


def test_a_short_training_forgets_where_it_began():
    network = _network(100.0)
    average = WeightAverage(network, 0.9999)
    for _ in range(100):
        _fill(network, 1.0)
        average.update(network)
    assert float(average.network[0].bias.detach()) == pytest.approx(1.0, abs=1e-3)


def test_running_statistics_are_averaged_and_counters_copied():
    network = _network(1.0)
    average = WeightAverage(network, 0.9)
    network.train()
    for _ in range(30):
        network(torch.rand(2, 1, 4, 4, 4))
        average.update(network)
    norm, averaged = network[1], average.network[1]
    assert averaged.num_batches_tracked == norm.num_batches_tracked == 30
    torch.testing.assert_close(
        averaged.running_mean, norm.running_mean, atol=0.5, rtol=0
    )
    assert not torch.equal(averaged.running_mean, torch.zeros(1))


def test_training_does_not_reach_into_the_average():
    network = _network(1.0)
    average = WeightAverage(network, 0.9)
    average.update(network)
    _fill(network, 7.0)
    assert float(average.network[0].bias.detach()) == 1.0
    assert not any(p.requires_grad for p in average.network.parameters())


def test_the_state_of_an_average_is_all_of_it(tmp_path):
    first, second = _network(), _network()
    averages = [WeightAverage(first, 0.99), WeightAverage(second, 0.99)]
    for value in (1.0, 5.0, 2.0):
        _fill(first, value)
        averages[0].update(first)
    torch.save(averages[0].state(), tmp_path / "state")
    averages[1].load(torch.load(tmp_path / "state", weights_only=True))
    for value in (4.0, 0.5):
        for network, average in zip((first, second), averages, strict=True):
            _fill(network, value)
            average.update(network)
    for a, b in zip(*(a.network.parameters() for a in averages), strict=True):
        assert torch.equal(a, b)
