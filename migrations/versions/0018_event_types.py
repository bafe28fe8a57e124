"""The catalogue of event types, channels that check messages, retention by channel, and rates by tenant"""

import sqlalchemy as sa
from alembic import op

from everhook.storage import online_schema as online

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # First: it commits what precedes it, and can be run again.
    online.replace_index("ix_message_payload", "message", ["channel", "gid"], where="payload IS NOT NULL")
    op.create_table(
        "event_type",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("schema", sa.JSON(), nullable=True),
        sa.Column("schema_sha256", sa.String(), nullable=True),
        sa.Column("example", sa.JSON(), nullable=True),
        sa.Column("deprecated", sa.Boolean(), nullable=False),
        sa.Column("archived", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.add_column("channel", sa.Column("validation", sa.String(32), nullable=False, server_default="off"))
    op.add_column("channel", sa.Column("retention_days", sa.Float(), nullable=True))
    op.add_column("tenant", sa.Column("publish_rate", sa.String(), nullable=True))
    op.add_column("message", sa.Column("validation_error", sa.String(), nullable=True))


def downgrade() -> None:
    online.replace_index("ix_message_payload", "message", ["gid"], where="payload IS NOT NULL")
    op.drop_column("message", "validation_error")
    op.drop_column("tenant", "publish_rate")
    op.drop_column("channel", "retention_days")
    op.drop_column("channel", "validation")
    op.drop_table("event_type")
