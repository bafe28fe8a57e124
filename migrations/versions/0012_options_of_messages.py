"""Options of messages: attributes, one endpoint, one attempt, a time of delivery"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_OF_MESSAGES = {
    "attributes": sa.JSON(),
    "endpoint_gid": sa.String(),
    "single_attempt": sa.Boolean(),
    "is_unrouted": sa.Boolean(),
    "deliver_at": sa.DateTime(timezone=True),
    "cancelled_at": sa.DateTime(timezone=True),
}


def upgrade() -> None:
    for name, type_ in _OF_MESSAGES.items():
        op.add_column("message", sa.Column(name, type_, nullable=True))
    op.add_column("delivery", sa.Column("single_attempt", sa.Boolean(), nullable=True))
    op.create_table(
        "scheduled_message",
        sa.Column("message_gid", sa.String(), nullable=False),
        sa.Column("deliver_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("message_gid"),
    )
    op.create_index("ix_scheduled_message_due", "scheduled_message", ["deliver_at"])


def downgrade() -> None:
    op.drop_table("scheduled_message")
    op.drop_column("delivery", "single_attempt")
    for name in reversed(_OF_MESSAGES):
        op.drop_column("message", name)
