"""Sequence classification: labels, heads, packs, resuming, tables, and what is refused."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import call
from torch.nn import functional as F

from analysis import figures, fit, load
from analysis.transfer.classifiers import best_classifiers
from scaling import Execution, RunConfig, init_from, train, train_pack, weights
from scaling.config import canonical, override
from scaling.data import corpus
from scaling.data.labels import LabelledExcerpts, excerpts, label_of
from scaling.errors import ConfigError, TableError
from scaling.generate import generate
from scaling.model_config import ModelConfig
from scaling.models.classifier import HEAD, classifier
from scaling.size import parameters, size_columns
from scaling.table import write
from scaling.training.train import Interrupted

pytestmark = pytest.mark.usefixtures("own_cache")

ONE = Execution(threads=1, device="cpu")
KEEP = Execution(threads=1, device="cpu", keep_weights=True)
AUTHORS = {"austen": "abcde", "melville": "defgh", "milton": "ghijk"}


def words(letters: str, n: int, rng: np.random.Generator) -> str:
    spelt = ("".join(rng.choice(list(letters), rng.integers(2, 7))) for _ in range(n))
    text = " ".join(spelt)
    return "\n\n".join(text[i : i + 60] for i in range(0, len(text), 60))


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """A corpus of two books by each of three authors, who use other letters."""
    folder, rng = tmp_path / "books", np.random.default_rng(0)
    folder.mkdir()
    for author, letters in AUTHORS.items():
        for book in ("one", "two"):
            (folder / f"{author}-{book}.txt").write_text(words(letters, 9000, rng))
    return folder


@pytest.fixture
def labelled(books: Path) -> RunConfig:
    return override(
        RunConfig(),
        {
            "data": {"corpus": str(books), "tokenizer": "bytes"},
            "model": {"n_layer": 1, "d_model": 16, "n_head": 2, "n_ctx": 32},
            "classify": {"labels": "author", "examples": 96},
            "tokens": 60 * 256,
            "batch_tokens": 256,
            "eval": {"test_tokens": 4096, "points": 4},
            "optim": {"lr": 1e-2},
        },
    )


def label_file(path: Path, n: int = 40, labels: tuple[str, ...] = ("a", "b")) -> str:
    rng = np.random.default_rng(1)
    lines = [f"{name}\t{words('abc', 6, rng)}".replace("\n", " ") for name in labels * n]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def curve(result):
    return [(p["S"], p["L"], p["L_train"], p["lr"]) for p in result.curve]


# ------------------------------------------------------------------ numbers


def test_a_classifier_learns_and_its_row_says_so(labelled):
    row = train(labelled, execution=ONE).row
    assert row["accuracy"] > 0.9 and row["L"] < 0.5 and row["classes"] == 3
    assert (row["examples"], row["labels"], row["status"]) == (96, "author", "ok")
    assert row["D_unique"] == 96 * 32 and row["D"] == 60 * 256 and row["D_predicted"] == 0
    assert math.isnan(row["bits_per_byte"])


def test_labels_without_meaning_are_told_by_chance(labelled, tmp_path):
    path = label_file(tmp_path / "random.tsv", n=300)
    run = override(labelled, {"classify.labels": path, "classify.examples": None})
    row = train(run, execution=ONE).row
    n = 2 * 60
    assert abs(row["accuracy"] - 0.5) < 4 * 0.5 / math.sqrt(n)
    assert row["L"] > math.log(2) - 0.05


def test_the_head_leaves_N_as_it_is():
    shape = ModelConfig(n_layer=1, d_model=8, n_head=1, n_ctx=16)
    model = classifier(shape, 50, classes=4)
    assert model.shapes[HEAD] == (4, 8)
    assert model.count().N == parameters(shape, 50).N
    assert model.count().N_total == parameters(shape, 50).N_total + 4 * 8


@pytest.mark.parametrize("family", ["decoder", "encoder", "lstm"])
@pytest.mark.parametrize("lm_weight", [0.0, 0.5])
def test_loss_and_gradient_are_those_of_the_head(family, lm_weight):
    if family == "encoder" and lm_weight:
        pytest.skip("an encoder predicts no next token")
    shape = ModelConfig(family=family, n_layer=1, d_model=8, n_head=1, n_ctx=12)
    model = classifier(shape, 50, 4, lm_weight)
    flat = model.init([0, 1]).double()
    flat += 0.3 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0)).double()
    flat.requires_grad_()
    generator = torch.Generator().manual_seed(1)
    windows = torch.randint(0, 50, (2, 5, 13), generator=generator)
    windows[:, :, -1] %= 4
    p = model.named(flat)
    x = model.hidden(p, windows[:, :, :-1]).view(2, 5, 12, 8)
    scores = x[:, :, 0 if family == "encoder" else -1] @ p[HEAD].transpose(1, 2)
    label = windows[:, :, -1]
    each = F.cross_entropy(scores.flatten(0, 1), label.flatten(), reduction="none").view(2, 5)
    plain = each.mean(1)
    if lm_weight:
        logits = model.logits(flat, windows[:, :, :-1]).view(2, 5, 12, 50)[:, :, :-1]
        tokens = windows[:, :, 1:-1]
        lm = F.cross_entropy(logits.flatten(0, 2), tokens.flatten(), reduction="none")
        plain = plain + lm_weight * lm.view(2, -1).mean(1)
    loss = model.mean_loss(flat, windows)
    torch.testing.assert_close(loss.double(), plain.detach(), rtol=1e-6, atol=1e-6)
    upstream = torch.tensor([1.0, -2.5])
    (ours,) = torch.autograd.grad((loss * upstream).sum(), flat, retain_graph=True)
    (expected,) = torch.autograd.grad((plain * upstream).sum(), flat)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)
    found = model.losses(flat.detach(), windows)
    torch.testing.assert_close(found[:, :, -1], each.detach().float())
    assert (found[:, :, 0] == (scores.argmax(2) == label)).all()
    assert found[:, :, 1:-1].isnan().all()


@pytest.mark.parametrize(
    "options", [{}, {"classify.lm_weight": 0.5}, {"model.family": "encoder"}], ids=str
)
def test_classifiers_in_a_pack_equal_single_ones_bit_for_bit(labelled, options):
    changes = [{}, {"seed": 1}, {"optim.lr": 3e-3, "tokens": 20 * 256, "classify.examples": 48}]
    short = {"tokens": 30 * 256}
    runs = [override(labelled, short | options | change) for change in changes]
    for member, run in zip(train_pack(runs, execution=ONE), runs, strict=True):
        alone = train(run, execution=ONE)
        assert curve(member) == curve(alone)
        for name in ("L", "L_stderr", "accuracy"):
            assert member.row[name] == alone.row[name]


def test_a_classifier_resumes_bit_for_bit(labelled, tmp_path):
    whole = train(labelled, execution=ONE)
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        train(labelled, execution=ONE, folder=tmp_path, should_stop=lambda: next(calls) == 33)
    again = train(labelled, execution=ONE, folder=tmp_path)
    assert curve(again) == curve(whole) and again.row["accuracy"] == whole.row["accuracy"]


@pytest.mark.parametrize("family", ["decoder", "encoder"])
def test_a_classifier_begins_from_trained_weights_with_a_head_of_its_seed(
    labelled, family, tmp_path
):
    changes = {"model.family": family, "classify.labels": "", "tokens": 10 * 256}
    parent = override(labelled, changes)
    train(parent, execution=KEEP, folder=tmp_path / "parent")
    begun = {"init": str(tmp_path / "parent"), "tokens": 256, "optim.lr": 1e-12}
    child = init_from.resolved(override(labelled, begun))
    row = train(child, execution=KEEP, folder=tmp_path / "child").row
    assert (row["init_run"], row["D_pretrain"]) == (parent.run_id, 2560)
    theirs, ours = (weights.load(tmp_path / name) for name in ("parent", "child"))
    names = zip(ours.model.shapes, ours.flat_1p[0].split(ours.model.sizes), strict=True)
    found = dict(names)
    old = dict(zip(theirs.model.shapes, theirs.flat_1p[0].split(theirs.model.sizes), strict=True))
    for name, tensor in old.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-9, rtol=0)
    assert 0.005 < found[HEAD].std() < 0.05
    with pytest.raises(ConfigError, match="is a classifier"):
        generate(ours, "a")
    with pytest.raises(ConfigError, match="is a classifier"):
        init_from.resolved(override(labelled, {"init": str(tmp_path / "child")}))


# ------------------------------------------------------------------ excerpts


def test_excerpts_keep_to_the_split_of_the_corpus(labelled):
    files = corpus.prepare(labelled.data)
    found = excerpts(files, labelled)
    assert found.classes == ("austen", "melville", "milton")
    texts = {side: getattr(files, side).read_bytes()[::2] for side in ("train", "test")}
    for row in found.test_bt:
        excerpt = bytes(row[:-1].astype(np.uint8))
        assert excerpt in texts["test"] and excerpt not in texts["train"]
    train = np.split(found.train_nt, np.cumsum(found.counts)[:-1])
    for label, rows in enumerate(train):
        assert (rows[:, -1] == label).all() and len({row.tobytes() for row in rows}) > 100
        assert all(bytes(row[:-1].astype(np.uint8)) in texts["train"] for row in rows[:50])
    counts = np.bincount(found.test_bt[:, -1])
    assert (counts == counts[0]).all() and len(found.test_bt) <= 4096 // 32


def test_fewer_examples_are_a_balanced_subset_of_more(labelled):
    files = corpus.prepare(labelled.data)
    rows = {}
    for n in (30, 31, 90):
        tokens = LabelledExcerpts(files, override(labelled, {"classify.examples": n}))
        windows = tokens.batch(0, 0, n)
        rows[n] = {row.tobytes() for row in windows}
        counts = np.bincount(windows[:, -1])
        assert len(windows) == n and counts.max() - counts.min() <= 1
    assert rows[30] < rows[31] < rows[90]


def test_an_encoder_reads_the_same_excerpts_after_cls(labelled):
    files = corpus.prepare(labelled.data)
    encoder = override(labelled, {"model.family": "encoder"})
    ours, theirs = (excerpts(files, run).test_bt for run in (encoder, labelled))
    assert (ours[:, 0] == 257).all() and (ours[:, 1:-1] == theirs[:, :-2]).all()
    assert (ours[:, -1] == theirs[:, -1]).all()


def test_short_texts_end_where_the_head_reads(labelled, tmp_path):
    path = tmp_path / "texts.jsonl"
    lines = [{"label": x, "text": f"{x}{i}"} for i in range(5) for x in ("yes", "no")]
    path.write_text("\n".join(map(json.dumps, lines)))
    run = override(labelled, {"classify.labels": str(path), "classify.examples": None})
    files = corpus.prepare(run.data)
    found = excerpts(files, run)
    assert found.classes == ("no", "yes") and found.most == 8 and len(found.test_bt) == 2
    for row in found.train_nt[-4:]:
        assert (row[:28] == 0).all() and bytes(row[28:32].astype(np.uint8)).startswith(b"yes")
    encoder = override(run, {"model.family": "encoder"})
    for row in excerpts(files, encoder).train_nt[-4:]:
        assert bytes(row[1:5].astype(np.uint8)).startswith(b"yes") and (row[5:32] == 0).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(1000, 2099), st.text("abcXYZ", min_size=1), st.text("abc", min_size=1))
def test_names_give_an_author_or_a_time(year, author, title):
    dated, book = f"{year}-{author}-1.txt", f"{author}-{title}.txt"
    assert label_of(book, "author") == author and label_of(book, "period") is None
    assert label_of(dated, "author") is None
    assert 0 <= year - int(label_of(dated, "period") or 0) < 50
    assert 0 <= year - int(label_of(dated, "decade") or 0) < 10


# ------------------------------------------------------------------ identity and tables


def test_options_without_effect_change_no_run(labelled):
    plain = override(labelled, {"classify.labels": ""})
    same = override(labelled, {"classify.labels": "", "classify.examples": None})
    assert plain.run_id == same.run_id and not [k for k in canonical(plain) if "classify" in k]
    assert labelled.run_id != plain.run_id
    assert override(labelled, {"classify.lm_weight": 0.5}).run_id != labelled.run_id


def test_columns_count_the_tokens_of_the_language_model_loss(labelled):
    assert size_columns(labelled)["D_predicted"] == 0
    with_lm = override(labelled, {"classify.lm_weight": 0.5})
    assert size_columns(with_lm)["D_predicted"] == 60 * 8 * 31


def test_classifiers_and_language_models_are_never_in_one_fit(labelled, tmp_path):
    short = {"tokens": 512, "eval.points": 1}
    runs = [labelled, override(labelled, {"classify.labels": ""})]
    rows = [train(override(run, short), execution=ONE).row for run in runs]
    write(tmp_path, rows, [])
    with pytest.raises(TableError, match="classifier"):
        fit("kaplan_N", load(tmp_path))
    one = load(tmp_path, where="labels != 'author'")
    assert len(one) == 1


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classify.labels": "authors"}, "Did you mean 'author'"),
        ({"classify.labels": "period"}, "0 classes"),
        ({"classify.examples": 10**6}, "is not between the 3 classes and"),
        ({"classify.examples": 2}, "is not between the 3 classes and"),
        ({"data.unique_tokens": 3200}, "use classify.examples"),
        ({"eval.others": "kjv"}, "leave it out"),
        ({"classify.lm_weight": 0.5, "model.family": "encoder"}, "does not predict"),
        ({"classify.lm_weight": -1.0}, "must be 0 or positive"),
    ],
)
def test_what_cannot_be_classified_is_refused(labelled, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(override(labelled, changes), execution=ONE)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("one.tsv", "a\tx\na\ty\na\tz\n", "1 class"),
        ("blank.tsv", "a\tx\n\ty\n", "line 2: no label"),
        ("tab.tsv", "a\tx\nb y\n", "line 2: no tab"),
        ("text.tsv", "a\tx\nb\t\n", "line 2: no text"),
        ("few.tsv", "a\tx\na\ty\nb\tz\n", "at least two"),
        ("key.jsonl", '{"label": "a", "text": "x"}\n{"text": "y"}\n', "line 2: no label"),
        ("none.jsonl", '{"label": null, "text": "y"}\n', "must be a string"),
        ("json.jsonl", "a\n", "line 1 is no JSON"),
        ("empty.tsv", "", "0 classes"),
        (None, "", "cannot be read"),
    ],
)
def test_a_bad_label_file_is_one_message(labelled, tmp_path, capsys, name, text, message):
    path = tmp_path / (name or "missing.tsv")
    if name:
        path.write_text(text)
    words = ["train", "--data.corpus", labelled.data.corpus, "--data.tokenizer", "bytes"]
    words += ["--classify.labels", path, "--model.n-ctx", "32", "--eval.test-tokens", "1024"]
    words += ["--batch-tokens", "256", "--tokens", "256", "--execution.device", "cpu"]
    assert call(*words) == 2
    shown = capsys.readouterr().err
    assert message in shown and "Traceback" not in shown and shown.count("rror") <= 1


def test_a_changed_label_file_is_another_text(labelled, tmp_path):
    path = label_file(tmp_path / "texts.tsv")
    run = override(labelled, {"classify.labels": path, "classify.examples": None})
    with pytest.raises(ConfigError, match="changed since the sweep began"):
        train(run, execution=ONE, texts={f"labels of {path}": "0" * 64})


def test_a_model_of_another_shape_or_kind_is_refused(labelled, tmp_path, capsys):
    parent = override(labelled, {"classify.labels": "", "tokens": 256, "eval.points": 1})
    train(parent, execution=KEEP, folder=tmp_path / "parent")
    for changes in (["--model.family", "encoder"], ["--model.d-model", "24"]):
        words = ["train", "--init", tmp_path / "parent", "--classify.labels", "author", *changes]
        assert call(*words, "--data.corpus", labelled.data.corpus) == 2
        shown = capsys.readouterr().err
        assert f"model.{'family' if 'encoder' in changes else 'd_model'}" in shown


# ------------------------------------------------------------------ the comparison


def experiment() -> pd.DataFrame:
    """Both arms at three sizes, three rates and two seeds; the middle rate is best."""
    rows = []
    for labels, N, arm, lr, seed in itertools.product(
        ("author", "period"), (1e4, 1e5, 1e6), ("", "parent"), (0.01, 0.004, 0.0016), (0, 1)
    ):
        gain = 0.1 if arm else 0.0
        accuracy = 0.3 + gain + 0.05 * math.log10(N) - 0.1 * (lr != 0.004) + 0.01 * seed
        rows.append(
            {"run_id": f"{len(rows):012x}", "status": "ok", "labels": labels, "examples": 512}
            | {"family": "decoder", "lm_weight": 0.0, "init_run": arm, "N": N, "lr_peak": lr}
            | {"lr_embedding": None, "seed": seed, "test_tokens": 32768, "n_ctx": 128}
            | {"classes": 9, "accuracy": accuracy, "L": 3 - accuracy, "D": 4e5, "C": 6 * N * 4e5}
            | {"L_pretrain": 5 - 0.3 * math.log10(N) if arm else math.nan}
        )
    return pd.DataFrame(rows)


def test_the_best_rate_of_each_arm_counts():
    found = best_classifiers(experiment())
    assert len(found) == 2 * 3 * 2 and (found["lr_peak"] == 0.004).all()
    of = found.set_index(["labels", "arm", "N"])
    assert of.loc[("author", "pretrained", 1e5), "accuracy"] == pytest.approx(0.655)
    assert of.loc[("author", "scratch", 1e5), "accuracy"] == pytest.approx(0.555)
    expected = math.sqrt(0.655 * 0.345 / 252)
    assert of.loc[("author", "pretrained", 1e5), "stderr"] == pytest.approx(expected)
    with pytest.raises(TableError, match="no finished run"):
        best_classifiers(experiment().assign(accuracy=math.nan))


def test_the_figure_has_a_panel_for_each_task():
    figure = figures.classification(experiment())
    author, period = figure.axes[:2]
    assert len(author.collections) == len(period.collections) == 2  # error bars of each arm
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["pre-trained", "from scratch", "guessing", "standard error"]
    assert author.get_ylabel() == "Accuracy"
    looks = {
        (ln.get_marker(), ln.get_linestyle(), ln.get_color())
        for ln in author.lines if ln.get_marker() != "None"
    }  # fmt: skip
    assert len(looks) == 2
