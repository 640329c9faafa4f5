"""SIP on pjsua2: lines, calls, offers and answers."""
