from typing import Any

import pytest

from bequest.core.errors import DataError, RunError
from bequest.engine import cluster
from bequest.engine.cluster import Resources, connected, resources


def test_resources_are_read_from_text():
    assert resources(None) == Resources(1, 0, 0)
    assert resources("cpus=2, gpus=0.5,memory=4GB") == Resources(2, 0.5, 4 * 10**9)
    assert resources("memory=1000").describe() == {"num_cpus": 1, "num_gpus": 0, "memory": 1000}
    assert resources("cpus=0.5").describe() == {"num_cpus": 0.5, "num_gpus": 0}


AMOUNTS = (
    *("2", "cpus", "cpus=", "cpus=0", "cpus=1,cpus=2", "cpus=1GB", "cores=2", "gpus=1.2.3"),
    *("cpus=.", "gpus=1.5", "cpus=1e9", "cpus=0.00001"),
)


@pytest.mark.parametrize("text", AMOUNTS)
def test_other_text_is_refused(text: str):
    with pytest.raises(DataError, match=r"--resources is .*expected"):
        resources(text)


NO_PLACES = (":", "localhost", "localhost:", "localhost:abc", "localhost:99999", "localhost:0", ":10001", "::1:10001")
ADDRESSES = ("", "spark", "ray:", "ray://", "ray://a/b", "http://host", *(f"ray://{place}" for place in NO_PLACES))


@pytest.mark.parametrize("address", ADDRESSES)
def test_only_addresses_of_ray_are_taken(address: str):
    with pytest.raises(DataError, match=r"--on is .*expected ray"), connected(address, Resources()):
        pass


@pytest.mark.parametrize("place", ["localhost:10001", "head.example.org:1", "10.0.0.2:65535", "[::1]:10001"])
def test_a_host_and_a_port_are_an_address(place: str):
    assert cluster._is_address(f"ray://{place}")


def test_what_no_machine_has_is_told_at_once():
    class Ray:
        """A cluster of two machines, one of which is gone."""

        def nodes(self) -> list[dict[str, Any]]:
            return [{"Alive": alive, "Resources": {"CPU": cpus}} for alive, cpus in ((True, 2.0), (False, 8.0))]

    resources("cpus=2").require(Ray())
    with pytest.raises(RunError, match=r"--resources asks for cpus=3 a task, which no machine of the cluster has"):
        resources("cpus=3").require(Ray())


def test_how_many_tasks_have_room() -> None:
    asked, whole = resources("cpus=2,memory=3GB"), {"CPU": 8.0, "memory": 7e9}
    assert asked.times_in(whole) == 2 and resources(None).times_in(whole) == 8
    assert resources("gpus=1").times_in(whole) == 0, "no accelerator"
    assert str(resources("cpus=2,gpus=0.5,memory=4GB")) == "cpus=2,gpus=0.5,memory=4e+09"
    assert [resources(f"cpus={cpus}").threads for cpus in (0.5, 1, 2.5)] == [1, 1, 2]
