"""Groups: deliveries in order"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_WIDE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("message", sa.Column("group_key", sa.String(), nullable=True))
    op.add_column("delivery", sa.Column("group_key", sa.String(), nullable=True))
    op.add_column("endpoint", sa.Column("on_group_failure", sa.String(32), nullable=False, server_default="continue"))
    op.create_table(
        "delivery_group",
        sa.Column("endpoint_gid", sa.String(), nullable=False),
        sa.Column("group_key", sa.String(), nullable=False),
        sa.Column("last", _WIDE, nullable=False),
        sa.Column("open", _WIDE, nullable=False),
        sa.Column("touched_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("endpoint_gid", "group_key"),
    )
    op.create_index("ix_delivery_group_touched", "delivery_group", ["touched_at"])
    op.create_table(
        "grouped_delivery",
        sa.Column("delivery_gid", sa.String(), nullable=False),
        sa.Column("endpoint_gid", sa.String(), nullable=False),
        sa.Column("group_key", sa.String(), nullable=False),
        sa.Column("position", _WIDE, nullable=False),
        sa.PrimaryKeyConstraint("delivery_gid"),
    )
    op.create_index(
        "uq_grouped_delivery_position", "grouped_delivery", ["endpoint_gid", "group_key", "position"], unique=True
    )


def downgrade() -> None:
    op.drop_table("grouped_delivery")
    op.drop_table("delivery_group")
    op.drop_column("endpoint", "on_group_failure")
    op.drop_column("delivery", "group_key")
    op.drop_column("message", "group_key")
