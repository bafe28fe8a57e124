"""Encrypted header values, and authentication of endpoints"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Values that `headers` has are encrypted later, by `everhook/storage/header_encryption.py`: processes of the
    release before still read them."""
    op.add_column("endpoint", sa.Column("header_values", sa.String(), nullable=True))
    op.add_column("endpoint", sa.Column("auth", sa.JSON(), nullable=True))
    op.add_column("endpoint", sa.Column("auth_secret", sa.String(), nullable=True))


def downgrade() -> None:
    """Headers whose values are encrypted are removed: without their values they are of no use."""
    op.execute(sa.text("UPDATE endpoint SET headers = '{}' WHERE header_values IS NOT NULL"))
    op.drop_column("endpoint", "auth_secret")
    op.drop_column("endpoint", "auth")
    op.drop_column("endpoint", "header_values")
