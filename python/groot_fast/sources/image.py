"""What a source resolves to: an `Image` with its layers, wherever its bytes are."""

from __future__ import annotations

from groot_fast._core import sha256

EMPTY_CONFIG = b'{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}'
"""The configuration of an image that has none (a tar file, a directory)."""


class Layer:
    """One layer. ``digest`` and ``diff_id`` are bare hex; None is not checked, as ``size`` None is not."""

    __slots__ = ("base_directory", "chain_id", "diff_id", "digest", "media_type", "path", "size", "urls")

    def __init__(
        self,
        *,
        chain_id: str,
        digest: str | None = None,
        diff_id: str | None = None,
        size: int | None = None,
        media_type: str = "",
        urls: tuple[str, ...] = (),
        base_directory: str = "",
        path: str | None = None,
    ) -> None:
        self.chain_id = chain_id
        self.digest = digest
        self.diff_id = diff_id
        self.size = size
        self.media_type = media_type
        self.urls = urls
        self.base_directory = base_directory
        self.path = path

    @property
    def name(self) -> str:
        """How messages call it: its digest, or where it is."""
        return f"sha256:{self.digest}" if self.digest else (self.path or self.chain_id)


class Image:
    """Layers from bottom to top, and the configuration as bytes (`image.json`) and as the parts we use."""

    def __init__(
        self, layers: list[Layer], config: bytes = EMPTY_CONFIG, env: list[str] | None = None, volumes: list[str] | None = None
    ) -> None:
        self.layers = layers
        self.config = config
        self.env = env or []
        self.volumes = sorted(volumes or [])

    @property
    def chain_ids(self) -> list[str]:
        """Names of the volumes, bottom to top."""
        return [layer.chain_id for layer in self.layers]

    @property
    def compressed_size(self) -> int:
        """Bytes of all blobs as the manifest gives them."""
        return sum(layer.size or 0 for layer in self.layers)

    @property
    def parts(self) -> tuple[list[str], bytes, list[str], list[str], int]:
        """What the store has to know of it besides the bytes of its layers."""
        return self.chain_ids, self.config, self.env, self.volumes, self.compressed_size

    @classmethod
    def recalled(cls, parts: tuple[list[str], bytes, list[str], list[str], int]) -> Image:
        """An image that the store remembers: its layers have names and no bytes."""
        chain_ids, config, env, volumes, compressed = parts
        layers = [Layer(chain_id=chain_id, size=0) for chain_id in chain_ids]
        layers[-1].size = compressed
        return cls(layers, config, env, volumes)


def chain_ids(diff_ids: list[str]) -> list[str]:
    """Names of volumes by the original's rule: SHA-256 over ``<parent> <diff id>`` without the ``sha256:`` prefixes,
    unlike OCI's (contract, section 9.5)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(diff_id if not chain else sha256(f"{chain[-1]} {diff_id}".encode()))
    return chain
