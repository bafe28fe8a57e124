"""Receipts that were moved to files"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

WIDE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "receipt_archive",
        sa.Column("tenant_gid", sa.String(), nullable=False),
        sa.Column("start", WIDE, nullable=False),
        sa.Column("end", WIDE, nullable=False),
        sa.Column("file", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("newest_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant_gid", "start"),
    )


def downgrade() -> None:
    op.drop_table("receipt_archive")
