"""An index of endpoints with alerts of their own"""

from everhook.storage.online_schema import create_index, drop_index

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_index("ix_endpoint_alerts", "endpoint", ["gid"], where="alerts IS NOT NULL")


def downgrade() -> None:
    drop_index("ix_endpoint_alerts", "endpoint")
