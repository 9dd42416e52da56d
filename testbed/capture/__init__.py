"""Packets of a capture file, back to the frames of our transport, and what they add up to."""
