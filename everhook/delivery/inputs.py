"""A new delivery, as the dispatcher takes it."""

from dataclasses import dataclass

from everhook.contracts import DeliveryInput
from everhook.delivery.snapshot_store import DeliverySnapshot


@dataclass(frozen=True)
class NewDelivery:
    """A delivery that was just committed, with what its first attempt needs, so that nothing has to be read back.

    `snapshot` is what the database holds of it now. None: the delivery is older, and has to be read. `is_replayed`: it
    is part of a replay, and gives way to others.
    """

    input: DeliveryInput
    snapshot: DeliverySnapshot | None = None
    is_replayed: bool = False

    @property
    def size(self) -> int:
        """Bytes of payload held in memory."""
        return len(self.snapshot.payload) if self.snapshot is not None and self.snapshot.payload is not None else 0
