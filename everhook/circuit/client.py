"""The client of endpoint workflows. Each call starts the workflow if it does not run (signal- and
update-with-start)."""

from datetime import timedelta
from typing import Any

from temporalio.client import Client, WithStartWorkflowOperation
from temporalio.common import Priority, SearchAttributePair, TypedSearchAttributes, WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from everhook.circuit.machine import Circuit, CircuitPolicy, CircuitState
from everhook.contracts import ENDPOINT_WORKFLOW, EndpointInput, OutcomeReport, TaskQueue
from everhook.ids import endpoint_workflow_id
from everhook.temporal import search_attributes as sa

RPC_TIMEOUT = timedelta(seconds=10)

AHEAD_OF_DELIVERIES = Priority(priority_key=1)
"""Before deliveries in the queue: after a burst of them, the circuit would open too late to spare the endpoint any."""


class CircuitClient:
    def __init__(self, client: Client, policy: CircuitPolicy) -> None:
        self._client = client
        self._policy = policy

    @property
    def defaults(self) -> CircuitPolicy:
        """The settings of the environment."""
        return self._policy

    async def report(self, endpoint_gid: str, tenant: str, report: OutcomeReport) -> None:
        """Report outcomes to an endpoint's workflow. An empty report only wakes it."""
        await self._client.start_workflow(
            ENDPOINT_WORKFLOW,
            self._input(endpoint_gid, tenant),
            id=endpoint_workflow_id(endpoint_gid),
            task_queue=TaskQueue.DELIVERIES,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            search_attributes=_search_attributes(endpoint_gid, tenant),
            static_summary=f"circuit of {endpoint_gid} of {tenant}",
            priority=AHEAD_OF_DELIVERIES,
            start_signal="report",
            start_signal_args=[report],
            rpc_timeout=RPC_TIMEOUT,
        )

    async def settings_changed(self, endpoint_gid: str) -> None:
        """Have an endpoint's workflow load its circuit settings again. One that does not run loads them when it
        starts."""
        handle = self._client.get_workflow_handle(endpoint_workflow_id(endpoint_gid))
        try:
            await handle.signal("settings_changed", rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise

    async def command(self, endpoint_gid: str, tenant: str, update: str, *args: Any) -> Circuit:
        """Execute an operator's update. Returns the circuit after it, which is already in the database."""
        start: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
            ENDPOINT_WORKFLOW,
            self._input(endpoint_gid, tenant),
            id=endpoint_workflow_id(endpoint_gid),
            task_queue=TaskQueue.DELIVERIES,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            search_attributes=_search_attributes(endpoint_gid, tenant),
            static_summary=f"circuit of {endpoint_gid} of {tenant}",
            priority=AHEAD_OF_DELIVERIES,
        )
        circuit: Circuit = await self._client.execute_update_with_start_workflow(
            update, args=args, start_workflow_operation=start, result_type=Circuit, rpc_timeout=RPC_TIMEOUT
        )
        return circuit

    def _input(self, endpoint_gid: str, tenant: str) -> EndpointInput:
        return EndpointInput(endpoint_gid=endpoint_gid, tenant=tenant, policy=self._policy)


def _search_attributes(endpoint_gid: str, tenant: str) -> TypedSearchAttributes:
    return TypedSearchAttributes(
        [
            SearchAttributePair(sa.TENANT, tenant),
            SearchAttributePair(sa.ENDPOINT, endpoint_gid),
            SearchAttributePair(sa.CIRCUIT_STATE, CircuitState.CLOSED.value),
        ]
    )
