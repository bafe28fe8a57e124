"""Workflows as earlier releases had them, for tests of upgrades."""

from temporalio import workflow

from workflows.delivery import DeliveryWorkflow
from workflows.endpoint import EndpointWorkflow

with workflow.unsafe.imports_passed_through():
    from activities.circuits import CircuitActivities
    from everhook.circuit.machine import Circuit
    from everhook.contracts import DELIVERY_WORKFLOW, ENDPOINT_WORKFLOW, DeliveryInput, DeliveryResult, EndpointInput
    from workflows.endpoint import ACTIVITY_TIMEOUT
    from workflows.retry import RETRY_FOREVER


@workflow.defn(name=DELIVERY_WORKFLOW)
class ReleasedDeliveryWorkflow(DeliveryWorkflow):
    """Parked deliveries check after the same interval each time, and there is no marker of a back-off."""

    @workflow.init
    def __init__(self, input: DeliveryInput) -> None:
        super().__init__(input)

    @workflow.run
    async def run(self, input: DeliveryInput) -> DeliveryResult:
        return await super().run(input)

    def _backs_off(self) -> bool:
        return False


@workflow.defn(name=ENDPOINT_WORKFLOW)
class ReleasedEndpointWorkflow(EndpointWorkflow):
    """Circuits keep the policy that they were started with."""

    @workflow.init
    def __init__(self, input: EndpointInput) -> None:
        super().__init__(input)

    @workflow.run
    async def run(self, input: EndpointInput) -> None:
        await super().run(input)

    async def _known_circuit(self) -> Circuit | None:
        return await workflow.execute_activity_method(
            CircuitActivities.load_circuit,
            self._input.endpoint_gid,
            start_to_close_timeout=ACTIVITY_TIMEOUT,
            retry_policy=RETRY_FOREVER,
        )

    def _knows_settings(self) -> bool:
        return False
