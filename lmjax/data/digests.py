"""What stands for a document: digests of its text."""

import hashlib


def digest64(data: bytes) -> int:
  """The first 64 bits of blake2b: what stands for a text."""
  return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), 'little')
