"""A delivery that was just committed, as the dispatcher takes it."""

from dataclasses import dataclass

from everhook.contracts import DeliveryInput
from everhook.delivery.snapshot_store import DeliverySnapshot


@dataclass(frozen=True)
class NewDelivery:
    """A delivery that was just committed, with what its first attempt needs: nothing of it has to be read back.

    `snapshot` is what the database would say of it now. None: read it, it was not just accepted.
    """

    input: DeliveryInput
    snapshot: DeliverySnapshot | None = None

    @property
    def size(self) -> int:
        """Bytes of payload that it keeps in memory."""
        return len(self.snapshot.payload) if self.snapshot is not None and self.snapshot.payload is not None else 0
