"""Media: RTP ports, and the engine that sends and receives audio."""
