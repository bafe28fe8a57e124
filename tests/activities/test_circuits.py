"""The circuit of an endpoint, between its workflow and the database."""

from datetime import timedelta

import pytest
from temporalio.testing import ActivityEnvironment

from activities.circuits import CircuitActivities
from everhook.circuit.machine import Circuit, CircuitPolicy, CircuitState, Hold
from everhook.contracts import CircuitProjection, EndpointCircuit
from everhook.endpoints import store as endpoints
from everhook.storage.engine import Database
from everhook.storage.tables import Endpoint, now
from tests.stores.factories import Store


@pytest.fixture
def circuits(database: Database) -> CircuitActivities:
    return CircuitActivities(database, CircuitPolicy(failure_threshold=7))


async def test_a_projected_circuit_is_the_one_that_is_loaded(circuits: CircuitActivities, store: Store) -> None:
    endpoint = await store.endpoint()
    circuit = Circuit(CircuitState.OPEN, Hold.PAUSED, "", 5, now(), 1, now() + timedelta(seconds=30), version=4)
    await ActivityEnvironment().run(circuits.project_circuit, CircuitProjection(endpoint.gid, circuit))
    await ActivityEnvironment().run(circuits.project_circuit, CircuitProjection(endpoint.gid, Circuit(version=3)))
    assert await ActivityEnvironment().run(circuits.load_circuit, endpoint.gid) == circuit


async def test_a_deleted_endpoint_has_no_circuit(circuits: CircuitActivities, store: Store) -> None:
    endpoint = await store.endpoint()
    async with store.database.writing() as session:
        await endpoints.remove(session, await session.get_one(Endpoint, endpoint.gid))
    assert await ActivityEnvironment().run(circuits.load_circuit, endpoint.gid) is None
    assert await ActivityEnvironment().run(circuits.load_endpoint, endpoint.gid) is None


async def test_a_circuit_comes_with_the_settings_that_apply_now(circuits: CircuitActivities, store: Store) -> None:
    endpoint = await store.endpoint(circuit={"cooldownSeconds": 5})
    policy = CircuitPolicy(failure_threshold=7, cooldown=timedelta(seconds=5))
    projection = CircuitProjection(endpoint.gid, Circuit(failures=1, version=1))
    assert await ActivityEnvironment().run(circuits.project_circuit, projection) == policy
    found = await ActivityEnvironment().run(circuits.load_endpoint, endpoint.gid)
    assert found == EndpointCircuit(projection.circuit, policy)
    assert await ActivityEnvironment().run(circuits.load_circuit_policy, endpoint.gid) == policy
