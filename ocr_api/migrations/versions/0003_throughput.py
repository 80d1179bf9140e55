"""Pages that were read, what was reused and wasted, shares of organisations. Only adds (expand)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COUNTS = (
    "pages_reused",
    "pages_failed",
    "reused_prompt_tokens",
    "reused_completion_tokens",
    "wasted_prompt_tokens",
    "wasted_completion_tokens",
)


def upgrade() -> None:
    # No batch: SQLite adds columns in place, and a copied table would lose its foreign keys.
    op.add_column("organisations", sa.Column("weight", sa.BigInteger, nullable=True))
    for name in _COUNTS:
        op.add_column("usage", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "ledger_pages",
        sa.Column("org_id", sa.String(36), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("document", sa.String(64), nullable=False),
        sa.Column("page", sa.BigInteger, nullable=False),
        sa.Column("card", sa.String(200), nullable=False),
        sa.Column("file_id", sa.String(36), nullable=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("kept", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("org_id", "key", name="pk_ledger_pages"),
        sa.ForeignKeyConstraint(
            ["org_id"], ["organisations.id"], name="fk_ledger_pages_org_id_organisations"
        ),
    )
    op.create_index("ix_ledger_pages_org_id_document", "ledger_pages", ["org_id", "document"])
    op.create_index("ix_ledger_pages_org_id_file_id", "ledger_pages", ["org_id", "file_id"])
    op.create_index("ix_ledger_pages_expires_at", "ledger_pages", ["expires_at"])


def downgrade() -> None:
    op.drop_table("ledger_pages")
    for name in _COUNTS:
        op.drop_column("usage", name)
    op.drop_column("organisations", "weight")
