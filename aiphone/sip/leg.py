"""One call of ours, and the dialogs that pjsua2 has for it.

A call has one dialog (``PjCall``) for most of its life. While it is being transferred there are two: the one that
was, and its ``successor``, on the same RTP port, so that the conversation goes on where it was.

SIP thread only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pjsua2 as pj

from aiphone.events import CallConfirmed, RtpSockets, RtpStream
from aiphone.sip.addresses import of_other_family
from aiphone.sip.admission import Admission
from aiphone.sip.director import guarded
from aiphone.sip.sdp import RemoteAudio, acceptable, media_host
from aiphone.sip.settings import CallPolicy

if TYPE_CHECKING:
    from aiphone.sip.calls import CallDesk

BRIDGE_RATE = 8000
"""Hz; of pjsua's conference bridge, which has no clock here."""


@dataclass(slots=True, eq=False)
class Leg:
    """One call of ours and what pjsua2 has for it."""

    call_id: str
    line_id: str
    source: str
    """IP address that the INVITE came from; of a call that we place, where it goes."""
    host: str
    """Our address in SDP."""
    policy: CallPolicy = field(default_factory=CallPolicy)
    account: Any = None
    call: PjCall | None = None
    successor: PjCall | None = None
    """A dialog that is to take the place of ``call``."""
    refusal: Admission | None = None
    sockets: RtpSockets | None = None
    """Owned here until they are handed over."""
    port: int = 0
    """Where the other side sends RTP: our port, or what a NAT makes of it."""
    rtcp_port: int = 0
    announced: bool = False
    """``IncomingCall`` or ``OutgoingCall`` is posted, so ``CallEnded`` is owed."""
    placed: bool = False
    """The call is ours."""
    answer_at: float = 0.0
    """A call that comes in is not answered before."""
    answer_wanted: bool = False
    """The main thread has said 200; it waits for ``answer_at``."""
    acknowledged_by: float | None = None
    """When the caller must have acknowledged our 200."""
    rings_until: float = 0.0
    """When we give up a call of ours, or a successor."""
    progress: int = 0
    """Last provisional answer to a call of ours."""
    redirections: int = 0
    verdict: tuple[int, str] | None = None
    """Why we gave up a call of ours: the status of our CANCEL would tell nothing."""
    transferring: bool = False
    """We asked the other side to call somebody else."""
    consultation: Leg | None = None
    """Our call with that somebody, of an attended transfer."""
    hold_wanted: bool | None = None
    """What we want the hold to be; None when it is as we want it."""
    hold_retry_at: float | None = None
    """When to try again, after the other side's offer met ours (491)."""
    negotiated: bool = False
    confirmed: bool = False
    confirmation: CallConfirmed | None = None
    """The event that says so, until it is posted."""
    ended: bool = False

    def dialogs(self) -> list[PjCall]:
        """What pjsua2 has of it now."""
        return [one for one in (self.call, self.successor) if one is not None]


class PjCall(pj.Call):  # type: ignore[misc]
    """pjsua2's call, one dialog; hands its callbacks to the desk."""

    def __init__(self, account: Any, pj_id: int, desk: CallDesk, leg: Leg) -> None:
        pj.Call.__init__(self, account, pj_id)
        self.desk = desk
        self.leg = leg
        self.offered = False
        """The offer was ours: the other side's answer comes after pjsua2 has told us that there is one."""
        self.plural = False
        """pjsip leaves comfort noise in our answers."""
        self.offer = ""
        """The other side's offer, until it is answered."""
        self.unsettled = False
        """Offer and answer are complete, and ``stream`` is not yet what they say."""
        self.ours = ""
        """Our description, as it was sent last."""
        self.theirs = ""
        """The other side's, as it came last."""
        self.remote: RemoteAudio | None = None
        """What is in it; None until it is known."""
        self.stream: RtpStream | None = None
        """What was settled on."""
        self.retired_at = 0.0
        """When another dialog took over."""

    def failed(self) -> None:
        """A callback of ours failed: end the call instead of leaving it half alive."""
        self.desk.give_up(self.leg, 500, "Internal Error")

    @guarded
    def onCallState(self, prm: Any) -> None:  # noqa: N802 - pjsua2's name
        self.desk.state_changed(self, prm.e)

    @guarded
    def onCallTsxState(self, prm: Any) -> None:  # noqa: N802
        self.desk.request_or_answer(self, prm.e)

    @guarded
    def onCallSdpCreated(self, prm: Any) -> None:  # noqa: N802
        # Where there is no offer its pointer is not set, so that a long one is not read here.
        theirs = prm.remSdp.wholeSdp or self.offer
        text = self.desk.local_sdp(self, self.desk.library.description(prm.sdp), theirs)
        if text:
            prm.sdp.wholeSdp = text

    @guarded
    def onStreamCreated(self, prm: Any) -> None:  # noqa: N802
        self.desk.library.fit_bridge(int(prm.pPort), BRIDGE_RATE)

    @guarded
    def onCallRxOffer(self, prm: Any) -> None:  # noqa: N802
        # pjsip would say 500 to a re-INVITE without a codec in common, and 200 without media to another family.
        offer = self.desk.library.description(prm.offer)
        if not acceptable(offer) or of_other_family(media_host(offer), self.leg.host):
            prm.statusCode = 488
        else:
            self.offer = offer

    @guarded
    def onCallMediaState(self, prm: Any) -> None:  # noqa: ARG002, N802
        self.desk.media_changed(self)

    @guarded
    def onDtmfEvent(self, prm: Any) -> None:  # noqa: N802
        self.desk.key_pressed(self, str(prm.digit))

    @guarded
    def onCallTransferRequest(self, prm: Any) -> None:  # noqa: N802
        self.desk.transfers.requested(self, prm)

    @guarded
    def onCallTransferStatus(self, prm: Any) -> None:  # noqa: N802
        self.desk.transfers.progressed(self, int(prm.statusCode), str(prm.reason), bool(prm.finalNotify))

    @guarded
    def onCallReplaceRequest(self, prm: Any) -> None:  # noqa: N802
        self.desk.transfers.to_be_replaced(self, prm)

    def onCallRedirected(self, prm: Any) -> int:  # noqa: N802
        """Which way to go on after a 3xx."""
        try:
            return self.desk.redirected(self, str(prm.targetUri))
        except Exception:  # noqa: BLE001 - it would cross into C++
            self.failed()
            return int(pj.PJSIP_REDIRECT_STOP)
