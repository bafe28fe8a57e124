"""Receipts, checkpoints and keys as they are shown."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
)

from api.schemas import ApiModel

_ORIGIN = "hooks.example.com/receipts/ten_01kgk27ygprz3snww46e1zg0hx"


_ROOT = "Dngj9yoV/EwcJ01EH1acdO+wE1dXDhjTrT87oZ1M2aI="


_NOTE = f"{_ORIGIN}\n11\n{_ROOT}\ntime 2026-02-01T12:30:00.000000Z\n\n\N{EM DASH} {_ORIGIN} Mgxrrq48…\n"


_JWS = "eyJhbGciOiJFZERTQSIs….eyJyZWNlaXB0R2lkIjoicmNw….W_DmlQfmnZv-…"


_HASHES = ["lhm4n1xQGultSjQ/uAS7lYH3Gg2uHyg/0wRN/lXtcRU=", "/IGpMw4lvllay5JoXk44Snp92hvbL4Ict32XUOsTp1g="]


_KEYS = {
    "keys": [
        {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
            "use": "sig",
            "nbf": 1767225600,
        }
    ]
}


Proof = Annotated[list[str], Field(description="Hashes in base64.", examples=[_HASHES])]


Note = Annotated[str, Field(description="A signed note (c2sp.org/tlog-checkpoint): keep it.", examples=[_NOTE])]


class JsonWebKeySet(ApiModel):
    keys: list[dict[str, Any]] = Field(examples=[_KEYS["keys"]])


class ReceiptOut(ApiModel):
    """What we state of an attempt."""

    receipt_gid: str
    delivery_gid: str
    attempt_gid: str
    round: int
    number: int
    seq: int | None = Field(description="Its place in the tenant's log, once it is under a checkpoint.", examples=[7])
    receipt: str = Field(description="As it was signed: a compact JWS.", examples=[_JWS])
    statement: dict[str, Any] | None = Field(
        description="Its claims, to be read. Null where the row was damaged.",
        examples=[{"outcome": "delivered", "statusCode": 200, "endedAt": "2026-02-01T12:07:00.070417Z"}],
    )
    created_at: datetime


class CheckpointOut(ApiModel):
    """How long a log was, and its root, signed."""

    size: int = Field(description="How many receipts are under it.", examples=[11])
    root: str = Field(examples=[_ROOT])
    checkpoint: Note
    created_at: datetime


class Growth(ApiModel):
    old_size: int
    new_size: int
    proof: Proof


class ReceiptBundle(ApiModel):
    """A receipt with the proof of its place in the log of a checkpoint. Save it as it is."""

    type: Literal["everhook.receipt-bundle"]
    version: Literal[1]
    receipt: str = Field(examples=[_JWS])
    seq: int = Field(examples=[7])
    inclusion_proof: Proof
    checkpoint: Note
    consistency: Growth | None = Field(None, description="With `since`.")
    jwks: dict[str, Any] = Field(examples=[_KEYS])


class ConsistencyBundle(ApiModel):
    """Two checkpoints with the proof that the log was only added to between them. Save it as it is."""

    type: Literal["everhook.consistency-bundle"]
    version: Literal[1]
    old_checkpoint: Note
    new_checkpoint: Note
    consistency_proof: Proof
    jwks: dict[str, Any] = Field(examples=[_KEYS])
