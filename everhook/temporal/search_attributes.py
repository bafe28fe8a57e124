"""The search attributes of the namespace: one list for provisioning, workflows, tests and docs."""

from temporalio.common import SearchAttributeKey

TENANT = SearchAttributeKey.for_keyword("Tenant")
ENDPOINT = SearchAttributeKey.for_keyword("Endpoint")
CHANNEL = SearchAttributeKey.for_keyword("Channel")
EVENT_TYPE = SearchAttributeKey.for_keyword("EventType")
DELIVERY_STATUS = SearchAttributeKey.for_keyword("DeliveryStatus")
DEAD_LETTER_REASON = SearchAttributeKey.for_keyword("DeadLetterReason")
DEAD_LETTERED_AT = SearchAttributeKey.for_datetime("DeadLetteredAt")
STATUS_CODE = SearchAttributeKey.for_int("StatusCode")
CIRCUIT_STATE = SearchAttributeKey.for_keyword("CircuitState")
DUE_AT = SearchAttributeKey.for_datetime("DueAt")
OUTCOME = SearchAttributeKey.for_keyword("Outcome")

ALL = (
    TENANT,
    ENDPOINT,
    CHANNEL,
    EVENT_TYPE,
    DELIVERY_STATUS,
    DEAD_LETTER_REASON,
    DEAD_LETTERED_AT,
    STATUS_CODE,
    CIRCUIT_STATE,
    DUE_AT,
    OUTCOME,
)
