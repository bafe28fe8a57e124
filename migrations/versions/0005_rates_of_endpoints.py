"""Send times of endpoints with a rate limit"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "endpoint_rate",
        sa.Column("endpoint_gid", sa.String(), nullable=False),
        sa.Column("last_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["endpoint_gid"], ["endpoint.gid"]),
        sa.PrimaryKeyConstraint("endpoint_gid"),
    )


def downgrade() -> None:
    op.drop_table("endpoint_rate")
