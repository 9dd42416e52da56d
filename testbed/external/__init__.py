"""Schedulers in other processes: the protocol's two ends, and its lines over pipes or a socket."""
