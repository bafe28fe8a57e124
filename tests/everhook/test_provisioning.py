"""What is set up in a namespace that was made a moment ago."""

import pytest
from temporalio.service import RPCError, RPCStatusCode

from everhook.provisioning import once_known


class Step:
    """Raises these, one a time, and then is done."""

    def __init__(self, *statuses: RPCStatusCode) -> None:
        self._statuses = list(statuses)

    async def __call__(self) -> None:
        if self._statuses:
            raise RPCError("Namespace everhook is not found.", self._statuses.pop(0), b"")


async def test_a_namespace_that_is_not_known_everywhere_yet_is_waited_for() -> None:
    await once_known(Step(RPCStatusCode.NOT_FOUND, RPCStatusCode.NOT_FOUND))


async def test_what_is_refused_for_another_reason_is_not() -> None:
    with pytest.raises(RPCError):
        await once_known(Step(RPCStatusCode.UNAVAILABLE))
