"""The page of a receipt: its claims, the result of its verification, and the file for third parties."""

from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from api.dashboard.pages import PageRoute, StoreDep, ViewerDep, render
from api.dependencies import ServicesDep
from api.receipts.schemas import Receipt
from everhook.errors import NotSealed
from everhook.receipts import bundle as bundles
from everhook.receipts.bundle import BundleFinding, BundleVerification
from everhook.receipts.keys import KeySet
from everhook.receipts.receipt import verify_receipt
from everhook.receipts.strict_json import InvalidDocument

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix="/receipts")


@dataclass(frozen=True)
class ReceiptView:
    """`is_sealed`: it is under a checkpoint, so its place in the log was checked, too."""

    receipt: Receipt
    verification: BundleVerification
    is_sealed: bool

    @property
    def attempt(self) -> dict[str, Any]:
        """The statement without the decision."""
        return {name: value for name, value in (self.receipt.statement or {}).items() if name != "decision"}

    @property
    def decision(self) -> dict[str, Any]:
        """A person's decision; empty if the delivery went to no inbox."""
        return (self.receipt.statement or {}).get("decision") or {}


@router.get("/{gid}")
async def show(gid: str, request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep) -> Response:
    """Verified each time it is looked at, as `everhook receipts verify` does it."""
    async with store.reading() as session:
        receipt = Receipt.of(await services.receipts.get(session, gid))
        try:
            bundle = await services.receipts.bundle(session, gid)
        except NotSealed:
            keys = await services.receipts.keys(session)
            view = ReceiptView(receipt, _of_signature(receipt.receipt, keys), is_sealed=False)
        else:
            view = ReceiptView(receipt, bundles.verify(bundle), is_sealed=True)
    return render(request, "receipt.html", viewer, title="Receipt", nav="deliveries", v=view)


@router.get("/{gid}/bundle")
async def download(gid: str, viewer: ViewerDep, services: ServicesDep, store: StoreDep) -> Response:
    async with store.reading() as session:
        bundle = await services.receipts.bundle(session, gid)
    return Response(
        orjson.dumps(bundle, option=orjson.OPT_INDENT_2),
        media_type="application/json",
        headers={"content-disposition": f'attachment; filename="{gid}.json"'},
    )


def _of_signature(receipt: str, keys: dict[str, Any]) -> BundleVerification:
    """All that can be said of a receipt before it has a place in the log."""
    try:
        verified = verify_receipt(receipt, KeySet.from_jwks(keys))
    except InvalidDocument as error:
        return BundleVerification((), wrong=BundleFinding(error.place, error.what))
    signed = BundleFinding("receipt", f"is signed by the key {verified.key.kid}, and unaltered since")
    return BundleVerification((signed,), receipt=verified.receipt)
