"""An AI that answers the telephone: SIP and RTP in, Whisper, LLaMA and a synthetic voice out."""

__version__ = "0.1.0"
