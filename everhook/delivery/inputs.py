"""A delivery that was just committed, as the dispatcher takes it."""

from dataclasses import dataclass

from everhook.contracts import DeliveryOrder
from everhook.delivery.snapshot_store import Basis


@dataclass(frozen=True)
class NewDelivery:
    """A delivery that was just committed, with what its first attempt needs: nothing of it has to be read back.

    `basis` is what the database would say of it now. None: read it, it was not just accepted.
    """

    order: DeliveryOrder
    basis: Basis | None = None

    @property
    def size(self) -> int:
        """Bytes of payload that it keeps in memory."""
        return len(self.basis.payload) if self.basis is not None and self.basis.payload is not None else 0
