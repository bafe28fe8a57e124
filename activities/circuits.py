"""The circuit of an endpoint and its policy, between its workflow and the database."""

from temporalio import activity

from everhook.circuit.machine import Circuit, CircuitPolicy
from everhook.circuit.spec import resolve
from everhook.circuit.store import circuit_specs, load_circuit, project
from everhook.contracts import CircuitProjection, EndpointCircuit
from everhook.storage.engine import Database, Session


class CircuitActivities:
    def __init__(self, database: Database, defaults: CircuitPolicy) -> None:
        """`defaults` are the settings of the environment."""
        self._database = database
        self._defaults = defaults

    @activity.defn(name="load_endpoint")
    async def load_endpoint(self, endpoint_gid: str) -> EndpointCircuit | None:
        """The circuit as last projected, and its policy; None if the endpoint was deleted."""
        async with self._database.reading() as session:
            circuit = await load_circuit(session, endpoint_gid)
            if circuit is None:
                return None
            return EndpointCircuit(circuit, await self._policy(session, endpoint_gid))

    @activity.defn(name="load_circuit")
    async def load_circuit(self, endpoint_gid: str) -> Circuit | None:
        """The same without the policy, for workflows that an earlier version started."""
        async with self._database.reading() as session:
            return await load_circuit(session, endpoint_gid)

    @activity.defn(name="load_circuit_policy")
    async def load_circuit_policy(self, endpoint_gid: str) -> CircuitPolicy:
        """The policy that applies now: that of the environment, of the endpoint's channels and of the endpoint."""
        async with self._database.reading() as session:
            return await self._policy(session, endpoint_gid)

    @activity.defn(name="project_circuit")
    async def project_circuit(self, projection: CircuitProjection) -> CircuitPolicy:
        """Write the circuit where senders read it. An older version than the stored one changes nothing. Returns the
        policy that applies now, in case the workflow missed its change."""
        async with self._database.writing() as session:
            await project(session, projection.endpoint_gid, projection.circuit)
        async with self._database.reading() as session:
            return await self._policy(session, projection.endpoint_gid)

    async def _policy(self, session: Session, endpoint_gid: str) -> CircuitPolicy:
        return resolve(self._defaults, *await circuit_specs(session, endpoint_gid))
