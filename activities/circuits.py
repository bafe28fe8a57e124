"""`load_circuit` and `project_circuit`: the circuit of an endpoint, between its workflow and the database."""

from temporalio import activity

from everhook.circuit.machine import Circuit
from everhook.circuit.store import load_circuit, project
from everhook.contracts import CircuitProjection
from everhook.storage.engine import Database


class CircuitActivities:
    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name="load_circuit")
    async def load_circuit(self, endpoint_gid: str) -> Circuit | None:
        """The circuit as last projected; None if the endpoint was deleted."""
        async with self._database.reading() as session:
            return await load_circuit(session, endpoint_gid)

    @activity.defn(name="project_circuit")
    async def project_circuit(self, projection: CircuitProjection) -> None:
        """Write the circuit where senders read it. An older version than the stored one changes nothing."""
        async with self._database.writing() as session:
            await project(session, projection.endpoint_gid, projection.circuit)
