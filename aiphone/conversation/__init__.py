"""Conversations: the state machine, the calls it runs in, and the switchboard."""
