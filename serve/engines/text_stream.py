"""Token ids to text that can be sent at once: whole characters only, and nothing that may yet become a stop sequence.

For engines that tell ids alone; llama.cpp does the same by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class TextStream:
    """The text of one answer, as far as it is certain."""

    def __init__(self, tokenizer: Any, prompt_ids: Sequence[int], stop: Sequence[str]) -> None:
        """Takes a `tokenizers.Tokenizer`; the prompt's last ids tell it whether the answer begins with a space."""
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._stream = DecodeStream(list(prompt_ids[-6:]), True)
        self._stop = [text for text in stop if text]
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """What may be sent after one more token; `stopped` is set once a stop sequence is complete."""
        self._held += self._stream.step(self._tokenizer, token_id) or ""
        found = [at for text in self._stop if (at := self._held.find(text)) >= 0]
        if found:
            self.stopped = True
            return self._send(min(found))
        keep = max((overlap(self._held, text) for text in self._stop), default=0)
        return self._send(len(self._held) - keep)

    def rest(self) -> str:
        """What was held back, at the end of an answer that no stop sequence ended."""
        return "" if self.stopped else self._send(len(self._held))

    def _send(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        return text


def overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def token_bytes(tokenizer: Any, token_id: int) -> bytes:
    """The bytes that a token stands for, half a character included."""
    token = tokenizer.id_to_token(token_id) or ""
    if token_id in tokenizer.get_added_tokens_decoder():
        return str(token).encode()
    if len(token) == 6 and token.startswith("<0x"):  # byte fallback of SentencePiece
        return bytes([int(token[3:5], 16)])
    if "ByteLevel" in str(tokenizer.decoder) and all(char in _BYTE_OF for char in token):
        return bytes(_BYTE_OF[char] for char in token)
    return str(token).replace("\u2581", " ").encode()


def _byte_level() -> dict[str, int]:
    """GPT-2's alphabet: a printable byte stands for itself, the n-th other one is U+0100 + n."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_level()
