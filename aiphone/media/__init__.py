"""RTP and audio: the Python side of the native media engine."""
