"""Workflows as earlier releases had them, for tests of upgrades."""

from temporalio import workflow

from workflows.delivery import DeliveryWorkflow

with workflow.unsafe.imports_passed_through():
    from everhook.contracts import DELIVERY_WORKFLOW, DeliveryInput, DeliveryResult


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
