"""A dialog (RFC 3261 section 12): the names, numbers and routes that two sides agree on."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiphone.caller.messages import Message, NameAddress, Request, Response, SipUri
from aiphone.caller.transport import Address, resolve

ALLOW = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, NOTIFY, REFER, MESSAGE"


@dataclass(slots=True)
class Dialog:
    """Our side of a dialog, also before it is established: then the remote tag is empty.

    ``local`` and ``remote`` are From and To values without tags.
    """

    call_id: str
    local: str
    local_tag: str
    contact: str
    remote: str
    target: str
    """Where requests go: the peer's Contact, at first the Request-URI."""
    next_hop: Address
    """Where the first request goes, and later ones of a dialog without a route."""
    remote_tag: str = ""
    route: list[str] = field(default_factory=list)
    cseq: int = 0
    remote_cseq: int = 0

    def request(self, method: str, via: str, *, cseq: int | None = None) -> Request:
        """The next request of the dialog; ``cseq`` repeats a number, as ACK and CANCEL must."""
        if cseq is None:
            self.cseq += 1
            cseq = self.cseq
        request = Request(method=method, uri=self.target)
        request.add("Via", via)
        request.add("Max-Forwards", "70")
        for route in self.route:
            request.add("Route", route)
        request.add("From", f"{self.local};tag={self.local_tag}")
        request.add("To", f"{self.remote};tag={self.remote_tag}" if self.remote_tag else self.remote)
        request.add("Call-ID", self.call_id)
        request.add("CSeq", f"{cseq} {method}")
        if method in ("INVITE", "UPDATE", "OPTIONS", "REFER", "ACK"):
            request.add("Contact", self.contact)
        if method in ("INVITE", "OPTIONS"):
            request.add("Allow", ALLOW)
        return request

    def establish(self, response: Response) -> None:
        """Take tag, route and target from a response to our INVITE (section 12.1.2)."""
        self.remote_tag = response.to.tag
        self.route = list(reversed(response.get_all("Record-Route")))
        self.refresh(response)

    def accept(self, invite: Request) -> None:
        """The same for an INVITE that we answer (section 12.1.1)."""
        self.remote_tag = invite.from_.tag
        self.route = invite.get_all("Record-Route")
        self.remote_cseq = invite.cseq[0]
        self.refresh(invite)

    def refresh(self, message: Message) -> None:
        """Take over a new target from a Contact, if there is one."""
        contacts = message.get_all("Contact")
        if contacts and contacts[0] != "*":
            self.target = NameAddress.parse(contacts[0]).uri
            hop = NameAddress.parse(self.route[0]).uri if self.route else self.target
            uri = SipUri.parse(hop)
            self.next_hop = resolve(uri.host, uri.port or 5060)

    def belongs(self, request: Request) -> bool:
        """Whether a request from the peer is of this dialog."""
        return (
            request.call_id == self.call_id
            and request.to.tag == self.local_tag
            and (not self.remote_tag or request.from_.tag == self.remote_tag)
        )
