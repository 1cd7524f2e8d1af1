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


def test_how_many_tasks_have_room() -> None:
    asked, whole = resources("cpus=2,memory=3GB"), {"CPU": 8.0, "memory": 7e9}
    assert asked.times_in(whole) == 2 and resources(None).times_in(whole) == 8
    assert resources("gpus=1").times_in(whole) == 0, "no accelerator"
    assert str(resources("cpus=2,gpus=0.5,memory=4GB")) == "cpus=2,gpus=0.5,memory=4e+09"
    assert [resources(f"cpus={cpus}").threads for cpus in (0.5, 1, 2.5)] == [1, 1, 2]
