"""A caller of our own: an independent SIP and RTP peer for tests, benchmarks and the doctor."""
