"""What an installation may have beyond the needful: the extras of pyproject.toml.

Owns how an extra is recognised and installed, and what it adds to a configuration that names no
backends. Imports none of their packages.
"""

from importlib.util import find_spec

from clinvk.config import Config, EmbeddingsConfig, default_aliases

INSTALL_EMBEDDINGS = "pip install 'clinvk[embeddings]'"
EMBEDDINGS = "embeddings"

_PACKAGES = ("numpy", "safetensors", "tokenizers", "wordllama")


def has_embeddings() -> bool:
    """Return whether every package of the extra `embeddings` can be found; a cheap look."""
    return all(find_spec(name) is not None for name in _PACKAGES)


def with_embeddings(config: Config) -> Config:
    """Return a configuration with the backend `embeddings` if the extra is installed.

    One that names its backends stays as it is, and so do aliases that somebody wrote.
    """
    if not has_embeddings() or "backends" in config.model_fields_set:
        return config
    backends = {**config.backends, EMBEDDINGS: EmbeddingsConfig(kind="embeddings")}
    aliases = config.aliases
    if aliases == default_aliases(config.backends):
        aliases = default_aliases(backends)
    return config.model_copy(update={"backends": backends, "aliases": aliases})
