"""The modelled content of prompts: as many bytes as in the emulated world, and as cheap."""

import xxhash

from engines.modelled.compute import ID_BYTES


class PatternAuthor:
    """Writes content that differs between openings, agents and turns; the seed sets it apart."""

    def __init__(self, seed: int, token_scale: int) -> None:
        self._seed = seed
        self._token_scale = token_scale
        self._openings: dict[int, bytes] = {}

    def opening(self, opening: int, tokens: int) -> bytes:
        """The first `tokens` real tokens of a shared opening; shorter ones are prefixes."""
        size = tokens // self._token_scale * ID_BYTES
        known = self._openings.get(opening, b"")
        if len(known) < size:
            known = self._openings[opening] = self._write(f"opening {opening}", size)
        return known[:size]

    def extend(self, content: bytes, prompt_tokens: int, agent: int, turn: int) -> bytes:
        """Content of a prompt of `prompt_tokens` that begins with `content`, or is cut from it."""
        missing = prompt_tokens // self._token_scale * ID_BYTES - len(content)
        if missing <= 0:
            return self.truncate(content, prompt_tokens)
        return content + self._write(f"agent {agent} turn {turn}", missing)

    def truncate(self, content: bytes, tokens: int) -> bytes:
        """The content of the first `tokens` real tokens."""
        return content[: tokens // self._token_scale * ID_BYTES]

    def _write(self, what: str, size: int) -> bytes:
        digest = xxhash.xxh3_128_digest(what.encode(), self._seed)
        return (digest * (size // len(digest) + 1))[:size]
