"""Tasks and their scores: laws that scoring must obey, and items that must not change."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.abilities import batches, few_shot, local, names, pairs, tasks
from scaling.abilities.batches import Request, arrange, log_probabilities
from scaling.abilities.held_out import HeldOutText
from scaling.abilities.item import Draws, Item, Task
from scaling.abilities.names import EXACT, PER_BYTE, PER_TOKEN, PMI, SUM
from scaling.abilities.predictor import Predictor, predictor
from scaling.abilities.prompts import sheet
from scaling.abilities.score import paired, score
from scaling.config import DataConfig, EvalConfig, RunConfig
from scaling.data.corpus import test_text as read_test_text
from scaling.data.tokenizer import Tokenizer
from scaling.errors import ConfigError
from scaling.model import build
from scaling.model_config import ModelConfig
from scaling.weights import Weights


def of_bytes(family: str = "decoder", *, n_ctx: int = 64, seed: int = 0, **shape) -> Predictor:
    """A model with random weights that reads bytes."""
    config = ModelConfig(family=family, n_layer=1, d_model=16, n_head=2, n_ctx=n_ctx, **shape)
    model = build(config, 256)
    run = RunConfig(model=config, batch_tokens=n_ctx, eval=EvalConfig(test_tokens=n_ctx), seed=seed)
    weights = Weights(
        run=run,
        model=model,
        flat_1p=model.init([seed]) * 5,  # far from uniform predictions
        tokenizer=Tokenizer.of(None, 256),
        row={},
        mean=False,
    )
    return predictor(weights)


def one_at_a_time(model: Predictor, context: list[int], continuation: list[int]) -> float:
    """The log-probability of a continuation by its definition, token by token."""
    total = 0.0
    for k, token in enumerate(continuation):
        tokens = torch.tensor([[*context, *continuation[:k]]])
        logits = model.logits(tokens, torch.tensor([tokens.shape[1] - 1]))
        total += float(logits.log_softmax(1)[0, token])
    return total


@pytest.fixture(scope="module")
def text(text_file) -> HeldOutText:
    return HeldOutText([[text_file.read_text("utf-8")]])


WORDS = st.text("abc de", min_size=1, max_size=8).filter(str.strip)
ITEMS = st.lists(
    st.tuples(st.text("abc de", max_size=12), st.lists(WORDS, min_size=2, max_size=4, unique=True)),
    min_size=1,
    max_size=6,
)


def task_of(drawn, gold: int = 0, name: str = "drawn") -> Task:
    items = (
        Item(str(k), context, tuple(f" {c}" for c in choices), gold % len(choices))
        for k, (context, choices) in enumerate(drawn)
    )
    return Task(name=name, items=tuple(items), metric=SUM, separator="\n")


# ------------------------------------------------------------------ laws of scoring


MODELS = {
    "learned": of_bytes(),
    "rope": of_bytes(position="rope", n_kv_head=1, qk_norm=True, norm="rmsnorm"),
    "mup": of_bytes(mup_base_width=8, activation="swiglu", bias=False, n_repeat=2, tied=False),
    "lstm": of_bytes("lstm"),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
@given(drawn=ITEMS)
@settings(max_examples=15, deadline=None)
def test_scores_are_those_of_one_token_at_a_time(model, drawn):
    task = task_of(drawn)
    (found,) = score(model, [(task, 0)])
    for k, item in enumerate(task.items):
        context = list(item.context.encode()) or [0]
        sums = np.array([one_at_a_time(model, context, [*c.encode()]) for c in item.choices])
        alone = np.array([one_at_a_time(model, [0], [*c.encode()]) for c in item.choices])
        assert found.nll[k] == pytest.approx(-sums[item.gold], abs=1e-4, rel=1e-5)
        lengths = np.array([len(c) for c in item.choices])
        for metric, value in {SUM: sums, PER_BYTE: sums / lengths, PMI: sums - alone}.items():
            best = np.sort(value)[::-1]
            weights = np.exp(value - best[0])
            p_gold = weights[item.gold] / weights.sum()
            assert found.p_gold[metric][k] == pytest.approx(p_gold, abs=1e-4)
            if best[0] - best[1] > 1e-4:
                assert found.correct[metric][k] == float(value[item.gold] == best[0])


@given(drawn=ITEMS, tokens=st.integers(1, 64), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_scores_depend_neither_on_batches_nor_on_the_order_of_items(drawn, tokens, seed):
    model = of_bytes()
    task = task_of(drawn)
    order = Draws(str(seed)).shuffled(range(len(task.items)))
    other = Task(name="drawn", items=tuple(task.items[i] for i in order), metric=SUM)
    (a,) = score(model, [(task, 0)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(batches.arrange.__kwdefaults__, "batch_tokens", tokens)
        b, _ = score(model, [(other, 0), (task_of(drawn, gold=1), 0)])
    np.testing.assert_allclose(a.nll[order], b.nll, atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(a.p_gold[PMI][order], b.p_gold[PMI], atol=1e-4)


@given(drawn=ITEMS)
@settings(max_examples=20, deadline=None)
def test_every_choice_is_right_once_as_gold_moves(drawn):
    """Accuracies over all positions of gold sum to 1, ties included, and so do probabilities."""
    most = max(len(choices) for _, choices in drawn)
    same = [(context, choices) for context, choices in drawn if len(choices) == most]
    found = score(of_bytes(), [(task_of(same, gold), 0) for gold in range(most)])
    for metric in (SUM, PER_BYTE, PER_TOKEN, PMI):
        np.testing.assert_allclose(sum(each.correct[metric] for each in found), 1)
        np.testing.assert_allclose(sum(each.p_gold[metric] for each in found), 1)


@given(choices=st.lists(WORDS, min_size=2, max_size=4, unique=True))
@settings(max_examples=20, deadline=None)
def test_pmi_ties_everywhere_without_a_context(choices):
    (found,) = score(of_bytes(), [(task_of([("", choices)]), 0)])
    assert found.correct[PMI].tolist() == [1 / len(choices)]
    np.testing.assert_allclose(found.p_gold[PMI], 1 / len(choices))


def test_equal_choices_tie_in_every_metric():
    task = Task(name="same", items=(Item("0", "ab", (" c", " c"), 1),), metric=SUM)
    (found,) = score(of_bytes(), [(task, 0)])
    assert set(found.correct) == {SUM, PER_BYTE, PER_TOKEN, PMI}
    assert all(each.tolist() == [0.5] for each in found.correct.values())


@given(text=st.text("abcdef ", min_size=2, max_size=60), cut=st.integers(1, 59))
@settings(max_examples=25, deadline=None)
def test_the_loss_of_a_continuation_is_the_sum_over_its_tokens(text, cut):
    model = build(ModelConfig(n_layer=1, d_model=16, n_head=2, n_ctx=64), 256)
    flat_1p = model.init([0]) * 5
    ids, cut = list(text.encode()), min(cut, len(text) - 1)
    losses_t = model.losses(flat_1p, torch.tensor(ids)[None, None])[0, 0]
    arranged = arrange([Request(tuple(ids[:cut]), tuple(ids[cut:]))], 256)
    found, _ = log_probabilities(of_bytes(), arranged)
    np.testing.assert_allclose(-found, losses_t[cut - 1 :].numpy(), atol=1e-5)


def test_a_mean_over_all_tokens_is_the_loss_of_training_and_evaluation():
    model = build(ModelConfig(n_layer=1, d_model=16, n_head=2, n_ctx=32), 256)
    flat_1p = model.init([0]) * 5
    windows_bt = torch.randint(0, 256, (5, 33), generator=torch.Generator().manual_seed(0))
    requests = [Request((ids[0],), tuple(ids[1:])) for ids in windows_bt.tolist()]
    found, _ = log_probabilities(of_bytes(n_ctx=32), arrange(requests, 256))
    loss = model.losses(flat_1p, windows_bt[None]).mean()
    assert -found.mean() == pytest.approx(float(loss), abs=1e-5)


def test_a_family_of_the_users_own_is_scored(own_family, monkeypatch):
    monkeypatch.chdir(own_family.parent)
    model = of_bytes("my.py:Mean")
    task = task_of([("a b", ["c", "dd"])])
    (found,) = score(model, [(task, 0)])
    assert found.nll[0] == pytest.approx(-one_at_a_time(model, [*b"a b"], [*b" c"]), abs=1e-5)


def test_logits_at_some_positions_are_those_of_all():
    model = build(ModelConfig(n_layer=1, d_model=16, n_head=2, n_ctx=8, mup_base_width=8), 256)
    flat_2p = model.init([0, 1])
    tokens = torch.arange(16).view(2, 1, 8)
    at = torch.tensor([7, 2])
    torch.testing.assert_close(
        model.logits(flat_2p, tokens, at), model.logits(flat_2p, tokens)[:, at]
    )


# ------------------------------------------------------------------ forward passes


def test_single_tokens_after_one_context_take_one_pass():
    requests = [Request((1, 2, 3), (token,)) for token in (4, 5, 6, 7)]
    (batch,) = arrange(requests, 256).batches
    assert batch.shared_bt.tolist() == [[1, 2, 3]] and not batch.lengths_r
    assert batch.rows_n.tolist() == [2] and sorted(batch.targets_q) == [4, 5, 6, 7]


def test_the_beginning_of_another_input_takes_no_pass_of_its_own():
    requests = [Request((1,), (2, 3, 4)), Request((1, 2), (3,)), Request((1, 2), (3, 5))]
    (batch,) = arrange(requests, 256).batches
    assert batch.shared_bt.tolist() == [[1, 2, 3]]
    assert len(batch.targets_q) == 4  # tokens 2, 3, 4 and 5, each once


def test_a_context_that_choices_share_is_read_once():
    requests = [Request((1, 2, 3, 4), tuple(c)) for c in ((5, 6), (5, 7), (8, 6, 9), (7,))]
    (batch,) = arrange(requests, 256, share=True).batches
    assert batch.shared_bt.tolist() == [[1, 2, 3, 4]]
    assert sorted(batch.rest_rt.tolist()) == [[5, 0], [8, 6]] and batch.beginning_r == [0, 0]
    assert arrange(requests, 256).tokens == 2 * 6


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=9), min_size=1, max_size=20),
    st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_batches_are_bounded_and_cover_every_request(sequences, share):
    requests = [Request((ids[0],), tuple(ids[1:])) for ids in sequences]
    arranged = arrange(requests, 4, share=share, batch_tokens=16)
    assert all(b.tokens <= 16 or len(b.lengths_b) == 1 for b in arranged.batches)
    inputs = []
    for b in arranged.batches:
        shared = [row[:n] for row, n in zip(b.shared_bt.tolist(), b.lengths_b, strict=True)]
        rests = zip(b.rest_rt.tolist(), b.lengths_r, b.beginning_r, strict=True)
        inputs += [*shared, *(shared[at] + rest[:n] for rest, n, at in rests)]
    for ids in sequences:
        assert any(row[: len(ids) - 1] == ids[:-1] for row in inputs)


@pytest.mark.parametrize("model", [m for m in MODELS.values() if m.continued])
@given(drawn=ITEMS)
@settings(max_examples=15, deadline=None)
def test_sharing_contexts_changes_no_score(model, drawn):
    task = task_of(drawn)
    (a,), (b,) = (score(m, [(task, 0)]) for m in (model, replace(model, continued=None)))
    np.testing.assert_allclose(a.nll, b.nll, atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(a.p_gold[PMI], b.p_gold[PMI], atol=1e-4)


def test_beginnings_and_rests_of_different_lengths_may_fill_the_context():
    """Padded, they are longer than the context together."""
    model = of_bytes(n_ctx=16)
    task = task_of([("abcdefghijklmno", ["x", "yz"]), ("abcdefg", ["hijklmn", "opqrstu"])])
    (found,) = score(model, [(task, 0)])
    assert found.nll[1] == pytest.approx(-one_at_a_time(model, [*b"abcdefg"], [*b" hijklmn"]))
    assert found.nll[0] == pytest.approx(-one_at_a_time(model, [*b"bcdefghijklmno"], [*b" x"]))


# ------------------------------------------------------------------ context, shots, tokens


def test_a_long_context_is_cut_from_the_left_alike_for_all_choices():
    model = of_bytes(n_ctx=8)
    task = task_of([("abcdefghijklmnop", ["xx", "x"])])
    (found,) = score(model, [(task, 0)])
    kept = [*b"klmnop"]  # with " xx" but its last token: eight tokens
    assert found.nll[0] == pytest.approx(-one_at_a_time(model, kept, [*b" xx"]), abs=1e-5)
    (found,) = score(model, [(task_of([("abcdefghijklmnop", ["xx", "x"])], gold=1), 0)])
    assert found.nll[0] == pytest.approx(-one_at_a_time(model, kept, [*b" x"]), abs=1e-5)


def test_a_continuation_that_is_longer_than_the_context_is_refused():
    with pytest.raises(
        ConfigError, match=r"item '0': a continuation has 10 tokens, more than .* 8"
    ):
        score(of_bytes(n_ctx=8), [(task_of([("a", ["b", "ccccccccc"])]), 0)])


def test_shots_that_do_not_fit_are_refused():
    task = task_of([(f"word {k} is", ["yes", "no"]) for k in range(8)])
    score(of_bytes(n_ctx=64), [(task, 3)])
    with pytest.raises(ConfigError, match=r"a prompt of 3 shots has 54 tokens, more than .* 32"):
        score(of_bytes(n_ctx=32), [(task, 3)])
    with pytest.raises(ConfigError, match="8 items, too few to draw 8 examples"):
        task.contexts(8)


@given(st.integers(1, 12), st.integers(0, 19))
@settings(max_examples=40, deadline=None)
def test_examples_are_never_the_item_itself_and_fewer_are_the_last_of_more(shots, k):
    task = task_of([(f"{n} is", ["yes", "no"]) for n in range(20)])
    prompt = task.contexts(shots)[k]
    *examples, question = prompt.split("\n")
    assert question == f"{k} is" and len({*examples, question}) == shots + 1
    assert question + " yes" not in examples and all(e.endswith(" is yes") for e in examples)
    assert task.contexts(shots + 1)[k].endswith("\n" + prompt)


def test_white_space_belongs_to_the_continuation_and_tokens_across_the_border_too():
    merged = {"a": 1, " b": 2, "b": 3, " ": 4, "ab": 5}

    def encode(text: str) -> list[int]:
        ids = []
        while text:
            token = max((t for t in merged if text.startswith(t)), key=len)
            ids.append(merged[token])
            text = text[len(token) :]
        return ids

    model = replace(of_bytes(), encode=encode)
    task = Task(name="t", items=(Item("0", "a", (" b", "b"), 0),), metric=SUM)
    requests = sheet([(task, 0)], model).questions[0].requests
    assert requests[:2] == (Request((1,), (2,)), Request((0,), (5,)))  # "ab" is one token


def test_a_paired_difference_has_the_standard_error_of_differences():
    task = task_of([(f"{n} is", ["yes", "no", "maybe"]) for n in range(40)])
    (a,), (b,) = (score(of_bytes(seed=seed), [(task, 0)]) for seed in (0, 1))
    difference = a.correct[SUM] - b.correct[SUM]
    found = paired(a, b)
    assert found.value == pytest.approx(difference.mean())
    assert found.stderr == pytest.approx(difference.std(ddof=1) / math.sqrt(40))
    assert paired(a, a, "nll").value == paired(a, a, "nll").stderr == 0
    (other,) = score(of_bytes(), [(task_of([("a", ["b", "c"])]), 0)])
    with pytest.raises(ConfigError, match="the items differ"):
        paired(a, other)


def test_answers_alone_are_scored_by_exact_match_and_probability():
    items = tuple(Item(str(k), f"{k} is", (" yes",), 0) for k in range(5))
    task = Task(name="cloze", items=items, metric=EXACT)
    (found,) = score(of_bytes(), [(task, 0)])
    assert set(found.correct) == {EXACT} and task.chance == 0
    np.testing.assert_allclose(found.p_gold[EXACT], np.exp(-found.nll))
    (rows,) = [row for row in found.rows() if row["metric"] == "bits_per_byte"]
    assert rows["value"] == pytest.approx(found.nll.sum() / math.log(2) / (4 * 5))


# ------------------------------------------------------------------ items


def test_items_are_the_same_for_the_same_text_and_keep_their_hash(text):
    """Change PROTOCOL in scaling/abilities/tasks.py together with these hashes."""
    found = {name: tasks.make(name, text).version for name in tasks.ITEMS}
    assert found == {name: tasks.make(name, text).version for name in tasks.ITEMS}
    assert tasks.PROTOCOL == 1 and found == HASHES


HASHES: dict[str, str] = {
    "agree": "f35894596971",
    "case": "8beac623dec6",
    "article": "f82ce0282f78",
    "this_these": "82a276a76130",
    "swap": "effcaa86e6f9",
    "last_word": "d9a6f35f8001",
    "last_word_context": "6d6ff88f83e4",
    "next_sentence": "ee8e4a837c94",
    "next_sentence_pair": "20da6cce637b",
    "copy": "a26694bcfd86",
    "reverse": "344b5dcfad28",
    "addition": "dfbbb42fbe9c",
    "plurals": "97ce85438f06",
    "capitals": "37a9c5761c7a",
    "repeat": "94503e9ed376",
}


def test_every_task_has_a_description_a_main_metric_and_items():
    assert {*names.TASKS} == {*tasks.ITEMS, "in_context"} == {*names.MAIN}


@pytest.mark.parametrize("name", list(tasks.ITEMS))
def test_items_are_well_formed(name, text):
    task = tasks.make(name, text)
    assert len(task.items) >= 90
    assert len({item.id for item in task.items}) == len(task.items)
    for item in task.items:
        assert len(set(item.choices)) == len(item.choices)
        assert all(choice[0] == " " and choice[1:].strip() for choice in item.choices)
        assert item.context == item.context.rstrip()
    if len(task.items[0].choices) > 1:
        k = len(task.items[0].choices)
        share = np.bincount([item.gold for item in task.items], minlength=k) / len(task.items)
        assert np.abs(share - 1 / k).max() < 4 * math.sqrt(0.25 / len(task.items))  # gold moves


@pytest.mark.parametrize("name", list(pairs.CONTRASTS))
def test_each_form_of_a_contrast_is_right_equally_often(name, text):
    task = tasks.make(name, text)
    for pair in pairs.CONTRASTS[name].forms:
        right = [item.answer.split()[0] for item in task.items]
        assert right.count(pair[0]) == right.count(pair[1])


def test_sums_reversals_plurals_and_capitals_are_right(text):
    for item in few_shot.addition_items(text):
        a, b = item.context.removesuffix(" =").split(" + ")
        assert int(item.answer) == int(a) + int(b)
    for item in few_shot.reverse_items(text):
        assert item.answer.split() == item.context.split()[-2::-1]
    for item in few_shot.capitals_items(text):
        assert item.answer == " " + item.context.split()[0].title()
    nouns = {item.context.split()[0]: item.answer for item in few_shot.plurals_items(text)}
    assert nouns["state"] == " states" and nouns["duty"] == " duties"


def test_items_are_cached_and_a_damaged_cache_is_made_anew(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    (first,) = tasks.tasks_of(run.data, ["agree"])
    (path,) = tmp_path.glob("tasks/*/agree.json")
    monkeypatch.setattr(tasks, "HeldOutText", None)  # nothing may be made now
    assert tasks.tasks_of(run.data, ["agree"]) == [first]
    monkeypatch.undo()
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    for damage in (b"", b"[1]", path.read_bytes().replace(b'" is"', b'" Is"', 1)):
        path.write_bytes(damage)
        assert tasks.tasks_of(run.data, ["agree"]) == [first]


def test_items_come_from_the_held_out_text_only(run, own_cache):
    _, read = read_test_text(run.data)
    held_out = " ".join(" ".join("".join(blocks) for blocks in read()).split())
    (task,) = tasks.tasks_of(run.data, ["swap"])
    assert all(item.context + item.answer in held_out for item in task.items)


def test_a_text_without_items_for_a_task_is_refused(tmp_path, own_cache):
    path = tmp_path / "numbers.txt"
    path.write_text("\n\n".join(f"{n} {n * n} {n**3}" for n in range(3000)))
    with pytest.raises(ConfigError, match="has no items for task 'agree'"):
        tasks.tasks_of(DataConfig(corpus=str(path), tokenizer="bytes"), ["agree"])
    assert len(tasks.tasks_of(DataConfig(corpus=str(path)), ["addition", "reverse"])) == 2


def test_a_name_that_is_no_task_is_refused():
    with pytest.raises(ConfigError, match=r"no task 'agre'. Did you mean 'agree'"):
        names.check_names(["swap", "agre"])


# ------------------------------------------------------------------ files of one's tasks

GOOD = {"id": "1", "context": "The sky is ", "choices": ["blue", "green"], "gold": 0}


def lines_of(tmp_path, *lines) -> Task:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return local.task_of(path)


def test_a_file_of_multiple_choice_is_a_task(tmp_path):
    task = lines_of(tmp_path, GOOD, "", GOOD | {"id": 2, "gold": 1})
    assert task.name == "mine" and task.metric == SUM and task.chance == 0.5
    assert task.items[0] == Item("1", "The sky is", (" blue", " green"), 0)
    assert [item.answer for item in task.items] == [" blue", " green"]


def test_a_file_of_answers_is_a_task(tmp_path):
    task = lines_of(tmp_path, {"id": "a", "context": "", "answer": "x"})
    assert task.metric == EXACT and task.items == (Item("a", "", ("x",), 0),)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GOOD, GOOD], "line 2: the id '1' is also that of line 1"),
        ([GOOD | {"gold": 2}], "line 1: 'gold' is 2; it must be a whole number from 0 to 1"),
        ([GOOD | {"gold": -1}], "'gold' is -1"),
        ([GOOD | {"gold": True}], "'gold' is true"),
        ([GOOD | {"gold": "0"}], "'gold' is \"0\""),
        ([GOOD | {"gold": None}], "line 1 has no 'gold'"),
        ([{k: v for k, v in GOOD.items() if k != "id"}], "'id' is missing"),
        ([GOOD | {"context": None}], "'context' is missing"),
        ([GOOD | {"choices": ["a"]}], "must be a list of at least two texts"),
        ([GOOD | {"choices": ["a", ""]}], 'choice 1 is ""; it must be a text'),
        ([GOOD | {"choices": ["a", "a"]}], 'the right choice "a" occurs twice'),
        ([GOOD | {"choices": ["a", None]}], "line 1 has no choice 1"),
        ([GOOD | {"answer": "b"}], "has both 'choices' and 'answer'"),
        ([{"id": "1", "context": "a"}], "line 1 has no answer"),
        ([{"id": "1", "context": "a", "answer": " "}], "'answer' is \" \"; it must be a text"),
        ([GOOD, {"id": "2", "context": "a", "answer": "b"}], "line 2 has 'answer', but the lines"),
        ([GOOD, "{"], "line 2 is not JSON"),
        ([GOOD, "[1]"], "line 2 is no JSON object"),
        ([GOOD | {"context": "\ud800"}], "half of a surrogate pair"),
        ([""], "has no items"),
    ],
)
def test_a_file_with_a_mistake_is_refused_with_its_line(tmp_path, lines, message):
    with pytest.raises(ConfigError) as error:
        lines_of(tmp_path, *lines)
    assert message in str(error.value) and "mine.jsonl" in str(error.value)


def test_a_file_that_is_missing_or_no_text_or_named_like_a_task_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        local.task_of(tmp_path / "none.jsonl")
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe{")
    with pytest.raises(ConfigError, match=r"a.jsonl is not UTF-8"):
        local.task_of(tmp_path / "a.jsonl")
    (tmp_path / "agree.jsonl").write_text(json.dumps(GOOD))
    with pytest.raises(ConfigError, match="'agree' is the name of another task"):
        local.task_of(tmp_path / "agree.jsonl")
