"""Channels as requests and responses show them."""

from datetime import datetime
from typing import Annotated, Any, cast

from pydantic import ConfigDict, Field

from api.schemas import (
    ApiModel,
    CircuitSettings,
    Gid,
    GivenOnly,
    Name,
    Number,
    Policy,
    Stored,
    circuit_of,
    spec_of,
)
from everhook.channels.service import ChannelChanges, NewChannel
from everhook.event_types.modes import ValidationMode
from everhook.publishing.gates import MAX_STEPS

_STEP: dict[str, Any] = {"inbox": "ep_01m83prhbfe23sdyzab24cmhby", "filter": {"amount": {"$gt": 1000}}}
_GATES = "Who has to approve its messages, one after the other, before they are sent."
_CIRCUIT = "Circuit settings of the endpoints that subscribe to it. An endpoint's own override them key by key."
_VALIDATION = (
    "What happens to messages that do not fit the catalogue of event types: `off` (not checked), `warn` (accepted, "
    "flagged and counted) or `reject` (`422`)."
)
_RETENTION = (
    "How many days the payloads of its messages are kept, instead of EVERHOOK_PAYLOAD_RETENTION_DAYS: fewer or more, "
    "but no longer than messages are kept. Null: as long as that setting says."
)
Days = Annotated[Number, Field(gt=0, le=36_500)]
_EXAMPLE: dict[str, Any] = {"name": "orders", "policy": {"preset": "patient"}}


class GateStep(GivenOnly):
    """A step of a gate: who has to approve a message before it is sent."""

    inbox: Gid = Field(description="The endpoint that asks.")
    task: dict[str, Any] | None = Field(
        None, description="What it asks; the `task` of the publish and the defaults of the inbox fill in the rest."
    )
    filter: dict[str, Any] | None = Field(None, description="Ask only if the payload matches, as in subscriptions.")


Gates = Annotated[list[GateStep], Field(max_length=MAX_STEPS)]


def _gates_of(gates: list[GateStep] | None) -> list[dict[str, Any]] | None:
    """Gates as the use cases take them."""
    return [step.model_dump() for step in gates] if gates is not None else None


class ChannelIn(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: Name = Field(examples=["orders"])
    policy: Policy | None = Field(None, examples=[{"preset": "patient"}])
    circuit: CircuitSettings | None = Field(None, description=_CIRCUIT, examples=[{"failureThreshold": 10}])
    gates: Gates | None = Field(None, description=_GATES, examples=[[_STEP]])
    validation: ValidationMode = Field(ValidationMode.OFF, description=_VALIDATION)
    retention_days: Days | None = Field(None, description=_RETENTION)

    def new(self) -> NewChannel:
        """As the use case takes it."""
        return NewChannel(
            name=self.name,
            policy=spec_of(self.policy),
            gates=_gates_of(self.gates),
            circuit=circuit_of(self.circuit),
            validation=self.validation,
            retention_days=self.retention_days,
        )


class ChannelPatch(ApiModel):
    """At least one field is required. A field that is absent keeps its value."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"policy": {"preset": "patient"}}]})

    policy: Policy | None = None
    circuit: CircuitSettings | None = Field(None, description=_CIRCUIT)
    gates: Gates | None = Field(None, description=_GATES)
    validation: ValidationMode | None = Field(None, description=f"{_VALIDATION} Not null.")
    retention_days: Days | None = Field(None, description=_RETENTION)

    def changes(self) -> ChannelChanges:
        """As the use case takes them: what was given, and nothing else."""
        values = {
            "policy": spec_of(self.policy),
            "circuit": circuit_of(self.circuit),
            "gates": _gates_of(self.gates),
            "validation": self.validation,
            "retention_days": self.retention_days,
        }
        return cast(ChannelChanges, {name: value for name, value in values.items() if name in self.model_fields_set})


class ChannelOut(ApiModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **_EXAMPLE,
                    "circuit": {"failureThreshold": 10},
                    "gates": [_STEP],
                    "validation": "warn",
                    "retentionDays": 7,
                    "createdAt": "2026-01-31T12:00:00Z",
                }
            ]
        }
    )

    name: str
    policy: dict[str, Any] | None
    circuit: Stored[CircuitSettings | None] = Field(description=_CIRCUIT)
    gates: Stored[list[GateStep] | None] = Field(description=f"{_GATES} Null also for the key of a tenant.")
    validation: ValidationMode = Field(description=_VALIDATION)
    retention_days: float | None = Field(description=_RETENTION)
    created_at: datetime
