"""Hearing and phrasing: voice activity, the listener thread, phrases and speakable text."""
