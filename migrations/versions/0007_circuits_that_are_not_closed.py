"""Indexes on circuits that are not closed, and on endpoints that are held"""

from everhook.storage.online_schema import create_index, drop_index

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_index("ix_circuit_until", "circuit", ["until"], where="state <> 'closed'")
    create_index("ix_circuit_hold", "circuit", ["hold"], where="hold IS NOT NULL")


def downgrade() -> None:
    drop_index("ix_circuit_hold", "circuit")
    drop_index("ix_circuit_until", "circuit")
