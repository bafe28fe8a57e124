"""Circuit settings, limits and alerts of endpoints, and the subscription of a delivery"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("channel", sa.Column("circuit", sa.JSON(), nullable=True))
    op.add_column("endpoint", sa.Column("circuit", sa.JSON(), nullable=True))
    op.add_column("endpoint", sa.Column("max_in_flight", sa.Integer(), nullable=True))
    op.add_column("delivery", sa.Column("subscription_gid", sa.String(), nullable=True))
    op.create_table(
        "endpoint_turn",
        sa.Column("endpoint_gid", sa.String(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["endpoint_gid"], ["endpoint.gid"]),
        sa.PrimaryKeyConstraint("endpoint_gid", "slot"),
    )
    op.add_column("tenant", sa.Column("alerts", sa.JSON(), nullable=True))
    op.add_column("endpoint", sa.Column("alerts", sa.JSON(), nullable=True))
    op.create_table(
        "endpoint_alerts",
        sa.Column("endpoint_gid", sa.String(), nullable=False),
        sa.Column("tenant_gid", sa.String(), nullable=False),
        sa.Column("level", sa.String(32), nullable=False),
        sa.Column("better_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("raised", sa.JSON(), nullable=False),
        sa.Column("version", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["endpoint_gid"], ["endpoint.gid"]),
        sa.PrimaryKeyConstraint("endpoint_gid"),
    )


def downgrade() -> None:
    op.drop_table("endpoint_alerts")
    op.drop_column("endpoint", "alerts")
    op.drop_column("tenant", "alerts")
    op.drop_table("endpoint_turn")
    op.drop_column("delivery", "subscription_gid")
    op.drop_column("endpoint", "max_in_flight")
    op.drop_column("endpoint", "circuit")
    op.drop_column("channel", "circuit")
