"""The text encoder: against other computations of the same embeddings, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import sys
from pathlib import Path

import pytest
import torch

from medldm.conditioning import text_encoder
from medldm.conditioning.text_encoder import DEFAULT_PACKAGE, TextEncoder

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'medldm[text]'")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "brain", "mri", "t1", "t2", "enlarged", "normal", "ventricles"]
TEXTS = ["T2 brain MRI", "brain", "T1 brain MRI enlarged ventricles"]

needs_default = pytest.mark.skipif(
    importlib.util.find_spec(DEFAULT_PACKAGE) is None,
    reason=f"{DEFAULT_PACKAGE} is not installed: pip install 'medldm[text]'",
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with random weights and eleven words."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("encoder") / "bert"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
            initializer_range=0.5,
        )
        BertModel(config).save_pretrained(folder)
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(directory: Path) -> TextEncoder:
    return TextEncoder(directory, max_tokens=8)


def attend(hidden: torch.Tensor, weights: dict[str, torch.Tensor], layer: int) -> torch.Tensor:
    """One BERT layer written out: attention and feed-forward, each with a residual and a layer norm."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        prefix = f"encoder.layer.{layer}.{name}"
        return x @ weights[f"{prefix}.weight"].T + weights[f"{prefix}.bias"]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        prefix = f"encoder.layer.{layer}.{name}.LayerNorm"
        return torch.layer_norm(x, (16,), weights[f"{prefix}.weight"], weights[f"{prefix}.bias"], 1e-12)

    query, key, value = (
        linear(f"attention.self.{name}", hidden).unflatten(-1, (2, 8)).transpose(0, 1)
        for name in ("query", "key", "value")
    )
    mixed = ((query @ key.mT) / 8**0.5).softmax(-1) @ value
    attended = linear("attention.output.dense", mixed.transpose(0, 1).flatten(1))
    hidden = norm("attention.output", hidden + attended)
    inner = torch.nn.functional.gelu(linear("intermediate.dense", hidden))
    return norm("output", hidden + linear("output.dense", inner))


def test_embeddings_are_those_of_bert_written_out(encoder: TextEncoder, directory: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(directory / "model.safetensors")
    ids = torch.tensor([WORDS.index(word) for word in ("[CLS]", "t2", "brain", "mri", "[SEP]")])
    hidden = (
        weights["embeddings.word_embeddings.weight"][ids]
        + weights["embeddings.position_embeddings.weight"][: len(ids)]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    scale, shift = (weights[f"embeddings.LayerNorm.{name}"] for name in ("weight", "bias"))
    hidden = torch.layer_norm(hidden, (16,), scale, shift, 1e-12)
    for layer in range(2):
        hidden = attend(hidden, weights, layer)
    torch.testing.assert_close(encoder.encode(TEXTS[:1])[0, :5], hidden, rtol=1e-5, atol=1e-5)


def test_shape_is_fixed_and_the_rest_of_a_text_is_zero(encoder: TextEncoder) -> None:
    embeddings = encoder.encode(TEXTS)
    assert embeddings.shape == (3, encoder.max_tokens, encoder.embed_dim) == (3, 8, 16)
    assert embeddings.dtype == torch.float32 and not embeddings.requires_grad
    assert [int(row.any(dim=-1).sum()) for row in embeddings] == [5, 3, 7]
    assert not embeddings[1, 3:].any()


def test_embedding_depends_on_the_text_alone_to_the_bit(encoder: TextEncoder, directory: Path) -> None:
    together = encoder.encode(TEXTS)
    fresh = TextEncoder(directory, max_tokens=8)
    alone = torch.cat([fresh.encode([text]) for text in reversed(TEXTS)]).flip(0)
    assert torch.equal(together, alone)


def test_long_text_is_cut_with_a_warning_that_counts_and_does_not_quote(
    encoder: TextEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    long = "brain MRI " * 6 + "ventricles"
    with caplog.at_level(logging.WARNING):
        embeddings = encoder.encode([TEXTS[0], long])
    assert "1 of 2 texts have more than 8 tokens (up to 15)" in caplog.text
    assert "ventricles" not in caplog.text
    assert embeddings[1].any(dim=-1).all()
    assert torch.equal(embeddings[1], encoder.encode(["brain MRI brain MRI brain MRI"])[0])


def test_cache_is_used_and_holds_hashes_but_no_text(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = TextEncoder(directory, max_tokens=8, cache_dir=cache).encode(TEXTS)
    files = sorted(cache.glob("*.safetensors"))
    assert len(files) == 3 and all(len(file.stem) == 32 for file in files)
    assert not any(word in file.read_bytes().lower() for file in files for word in (b"brain", b"mri"))
    again = TextEncoder(directory, max_tokens=8, cache_dir=cache)
    monkeypatch.setattr(again, "_model", None)
    assert torch.equal(first, again.encode(TEXTS))
    longer = TextEncoder(directory, max_tokens=9, cache_dir=cache)
    assert torch.equal(longer.encode(TEXTS)[:, :8], first)
    assert len(list(cache.glob("*.safetensors"))) == 6


@pytest.mark.parametrize("content", [b"", b"no safetensors"])
def test_damaged_cache_file_is_made_again_with_a_warning(
    directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    first = TextEncoder(directory, cache_dir=tmp_path).encode(TEXTS[:1])
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(content)
    again = TextEncoder(directory, cache_dir=tmp_path)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(again.encode(TEXTS[:1]), first)
    assert "damaged" in caplog.text
    assert file.stat().st_size > len(content)


def test_identity_follows_the_files_and_not_their_folder(directory: Path, tmp_path: Path) -> None:
    identity = TextEncoder(directory).identity
    copy = shutil.copytree(directory, tmp_path / "patient_name")
    assert TextEncoder(copy).identity == identity
    assert identity.startswith("bert 16 sha256:")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}))
    assert TextEncoder(copy).identity != identity


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("brain", TypeError, "list of texts"),
        ([], ValueError, "at least one"),
        (["brain", " \n"], ValueError, r"texts \[1\] are empty"),
        (["brain", None], TypeError, r"entries \[1\]"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(
    encoder: TextEncoder, texts: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        encoder.encode(texts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["model.safetensors"], "pickled .bin"),
        (["config.json"], "no Hugging Face"),
        (["tokenizer.json", "tokenizer_config.json", "vocab.txt"], "no tokenizer"),
    ],
)
def test_incomplete_folder_is_refused(
    directory: Path, tmp_path: Path, missing: list[str], message: str
) -> None:
    copy = shutil.copytree(directory, tmp_path / "copy")
    for name in missing:
        (copy / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=message):
        TextEncoder(copy)


def test_weights_that_lack_a_layer_are_refused(directory: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(directory, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layer.1." not in name}
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="16 are missing"):
        TextEncoder(copy)


def write_shards(directory: Path, folder: Path) -> Path:
    """Copy an encoder with its weights in two files and an index, as large ones are saved."""
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(directory, folder)
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    weight_map = {key: names[index % 2] for index, key in enumerate(sorted(weights))}
    for name in names:
        own = {key: weights[key] for key, file in weight_map.items() if file == name}
        save_file(own, copy / name, metadata={"format": "pt"})
    write_index(copy, weight_map)
    return copy


def write_index(folder: Path, weight_map: dict[str, str]) -> None:
    content = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def read_index(folder: Path) -> dict[str, str]:
    content = json.loads((folder / "model.safetensors.index.json").read_text())
    return dict(content["weight_map"])


def test_weights_in_several_files_are_those_in_one_and_their_index_is_part_of_the_identity(
    directory: Path, encoder: TextEncoder, tmp_path: Path
) -> None:
    copy = write_shards(directory, tmp_path / "shards")
    split = TextEncoder(copy, max_tokens=8)
    assert torch.equal(split.encode(TEXTS), encoder.encode(TEXTS))
    index = copy / "model.safetensors.index.json"
    index.write_text(index.read_text() + " ")
    assert TextEncoder(copy, max_tokens=8).identity != split.identity


@pytest.mark.parametrize(
    "target",
    [
        "weights.bin",
        "../outside.pt",
        "../outside.safetensors",
        "/outside.safetensors",
        "./model-00001-of-00002.safetensors",
        "sub/model.safetensors",
    ],
)
def test_an_index_leads_to_no_other_file(
    directory: Path, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = write_shards(directory, tmp_path / "shards")
    (copy / "sub").mkdir()
    target = str(tmp_path / target[1:]) if target.startswith("/") else target
    torch.save({"a": torch.zeros(1)}, copy / target)
    weight_map = read_index(copy)
    write_index(copy, {**weight_map, min(weight_map): target})
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    with pytest.raises(ValueError, match=r"no \*\.safetensors beside it"):
        TextEncoder(copy)


def test_an_index_at_odds_with_its_files_is_refused(directory: Path, tmp_path: Path) -> None:
    copy = write_shards(directory, tmp_path / "shards")
    first, second = sorted(copy.glob("*.safetensors"))
    weight_map = read_index(copy)
    swapped = {first.name: second.name, second.name: first.name}
    write_index(copy, {key: swapped[file] for key, file in weight_map.items()})
    with pytest.raises(ValueError, match="other weights than its index says"):
        TextEncoder(copy)
    write_index(copy, {key: first.name for key in weight_map})
    with pytest.raises(ValueError, match="leaves out 1"):
        TextEncoder(copy)
    (copy / "model.safetensors.index.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"index\.json (is not JSON|is nested)"):
        TextEncoder(copy)
    (copy / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match=r"holds 2 .*and 0 indices"):
        TextEncoder(copy)


@pytest.mark.parametrize("key", ["vocab_file", "tokenizer_file", "source_spm", "anything"])
def test_settings_of_a_tokenizer_lead_to_no_other_file(directory: Path, tmp_path: Path, key: str) -> None:
    copy = shutil.copytree(directory, tmp_path / "copy")
    (tmp_path / "private.txt").write_text("secret")
    file = copy / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: str(tmp_path / "private.txt")}))
    with pytest.raises(ValueError, match=f"names a file as '{key}'"):
        TextEncoder(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**7},
        {"hidden_size": 2**20, "intermediate_size": 2**20},
        {"vocab_size": 2**40},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
    ],
)
def test_a_description_of_more_than_the_weights_is_refused_before_it_is_built(
    directory: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    copy = shutil.copytree(directory, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=r"than the weights are of|quantised|does not describe"):
        TextEncoder(copy)


@pytest.mark.parametrize("max_tokens", [2, 41])
def test_number_of_tokens_outside_the_encoders_limits_is_refused(directory: Path, max_tokens: int) -> None:
    with pytest.raises(ValueError, match=rf"max_tokens is {max_tokens}.*to 40"):
        TextEncoder(directory, max_tokens=max_tokens)


def test_absent_packages_name_the_extra(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_encoder, "DEFAULT_PACKAGE", "no_such_package")
    with pytest.raises(ImportError, match=r"medldm\[text\]"):
        TextEncoder.default()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"medldm\[text\]"):
        TextEncoder(directory)


def test_default_encoder_of_other_content_is_refused(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "other_encoder"
    shutil.copytree(directory, package / "model")
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(text_encoder, "DEFAULT_PACKAGE", "other_encoder")
    with pytest.raises(ValueError, match=r"config\.json of other_encoder"):
        TextEncoder.default()


@pytest.fixture(scope="module")
def default_encoder() -> TextEncoder:
    return TextEncoder.default()


@needs_default
def test_mean_over_tokens_is_the_sentence_embedding_of_sentence_transformers(
    default_encoder: TextEncoder,
) -> None:
    models = pytest.importorskip("sentence_transformers")
    folder = Path(str(importlib.util.find_spec(DEFAULT_PACKAGE).origin)).parent / "model"  # type: ignore[union-attr]
    texts = ["T2-weighted brain MRI, enlarged ventricles", "CT of the abdomen"]
    embeddings = default_encoder.encode(texts)
    n_tokens = embeddings.any(dim=-1).sum(dim=1, keepdim=True)
    pooled = torch.nn.functional.normalize(embeddings.sum(dim=1) / n_tokens)
    expected = models.SentenceTransformer(str(folder), device="cpu").encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-6)


@needs_default
def test_default_encoder_places_like_texts_nearer_than_unlike_ones(default_encoder: TextEncoder) -> None:
    texts = [
        "enlarged ventricles in the brain",
        "ventriculomegaly, cerebral MRI",
        "fracture of the left wrist",
    ]
    pooled = torch.nn.functional.normalize(default_encoder.encode(texts).sum(dim=1))
    similarity = pooled @ pooled.T
    assert similarity[0, 1] > similarity[0, 2] + 0.2
    assert (default_encoder.embed_dim, default_encoder.max_tokens) == (384, 32)
