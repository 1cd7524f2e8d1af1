import pytest

from bequest.core.errors import DataError
from bequest.engine.cluster import Resources, connected, resources


def test_resources_are_read_from_text():
    assert resources(None) == Resources(1, 0, 0)
    assert resources("cpus=2, gpus=0.5,memory=4GB") == Resources(2, 0.5, 4 * 10**9)
    assert resources("memory=1000").describe() == {"num_cpus": 1, "num_gpus": 0, "memory": 1000}
    assert resources("cpus=0.5").describe() == {"num_cpus": 0.5, "num_gpus": 0}


@pytest.mark.parametrize("text", ["2", "cpus", "cpus=", "cpus=0", "cpus=1,cpus=2", "cpus=1GB", "cores=2", "gpus=1.2.3"])
def test_other_text_is_refused(text: str):
    with pytest.raises(DataError, match=r"--resources is .*expected"):
        resources(text)


@pytest.mark.parametrize("address", ["", "spark", "ray:", "ray://", "ray://a/b", "http://host"])
def test_only_addresses_of_ray_are_taken(address: str):
    with pytest.raises(DataError, match=r"--on is .*expected ray"), connected(address):
        pass
