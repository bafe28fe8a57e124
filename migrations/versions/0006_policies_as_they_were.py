"""Earlier policies, the start of replays, and the deliveries of a message in their order"""

import sqlalchemy as sa
from alembic import op

from everhook.storage.online_schema import replace_index

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    replace_index("ix_delivery_message", "delivery", ["message_gid", "gid"])
    op.create_table(
        "past_policy",
        sa.Column("endpoint_gid", sa.String(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("policy", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("endpoint_gid", "channel", "until"),
    )
    op.create_index("ix_past_policy_until", "past_policy", ["until"])
    op.create_table(
        "delivery_round",
        sa.Column("delivery_gid", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("delivery_gid", "round"),
    )


def downgrade() -> None:
    replace_index("ix_delivery_message", "delivery", ["message_gid"])
    op.drop_table("delivery_round")
    op.drop_index("ix_past_policy_until", table_name="past_policy")
    op.drop_table("past_policy")
