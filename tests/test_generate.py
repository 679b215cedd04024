"""Generation: the cache, sampling, beam search, judged text, the command and the report."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import call

from analysis.reporting import html
from analysis.reporting.samples import by_size, section
from analysis.reporting.summary import summarise
from scaling import samples as kept
from scaling import size, table
from scaling import weights as stored
from scaling.config import from_dict
from scaling.data.tokenizer import Tokenizer
from scaling.errors import ConfigError, TableError
from scaling.generate import Decoding, bits_per_byte, generate, judged, passages, repeated
from scaling.generate.sequences import Sequences
from scaling.model import build
from scaling.models.decoder import Decoder
from scaling.weights import Weights

BYTES = Tokenizer.of(None, 256)
FEW = Tokenizer((b"a", b"b", b" ", b"ab", b".", b"c"), 8, 7, "few")
"""A vocabulary of eight ids: six tokens, one id without a token, and end-of-text."""
PAIRS = Tokenizer.of([*(bytes([i]) for i in range(256)), b"th", b"he", b" a", b"ab"], 262)


def random_weights(
    seed: int = 0, *, spread: float = 0.3, tokenizer: Tokenizer = BYTES, corpus="prose", **model
) -> Weights:
    """Return a model with random weights: no training is needed to test how it generates."""
    shape = {"n_layer": 2, "d_model": 16, "n_head": 2, "n_ctx": 32} | model
    data = {"corpus": str(corpus), "tokenizer": "bytes"}
    batch = 8 * shape["n_ctx"]
    fixed = {"tokens": 10_000, "batch_tokens": batch, "eval.test_tokens": batch, "seed": seed}
    run = from_dict({"model": shape, "data": data} | fixed)
    built = build(run.model, tokenizer.vocab_size)
    generator = torch.Generator().manual_seed(seed)
    flat_1p = built.init([seed]) + spread * torch.randn(1, built.P, generator=generator)
    row = {"run_id": run.run_id, "N": built.count().N, "D": 10_000, "L": 3.0 - seed / 10}
    return Weights(run=run, model=built, flat_1p=flat_1p, tokenizer=tokenizer, row=row, mean=False)


def keep(folder: Path, weights: Weights) -> Path:
    """Write weights as a run of a results folder; return the run's folder."""
    place = folder / "runs" / weights.run.run_id
    place.mkdir(parents=True)
    stored.save(
        place, run=weights.run, model=weights.model, flat_p=weights.flat_1p[0],
        tokenizer=weights.tokenizer, row=weights.row,
    )  # fmt: skip
    return place


# ------------------------------------------------------------------ the cache

CONFIGS = [
    dict(zip(("norm", "position", "activation", "qk_norm", "bias"), values, strict=True))
    | {"n_kv_head": kv, "mup_base_width": mup, "n_repeat": repeat, "tied": tied}
    for values in itertools.product(
        ("layernorm", "rmsnorm"), ("learned", "rope"), ("gelu", "swiglu"), (False, True),
        (False, True),
    )
    for kv, mup, repeat, tied in [(None, None, 1, True), (1, 8, 2, False), (2, 8, 1, False),
                                  (2, None, 2, True)]
]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: "-".join(map(str, c.values())))
def test_cached_logits_are_those_of_the_full_forward_pass(config):
    """For prompts of different lengths, token by token, with sequences reordered half-way."""
    weights = random_weights(d_model=16, n_head=4, n_ctx=20, spread=0.1, **config)
    model, flat = weights.model, weights.flat_1p
    tokens_bt = torch.randint(0, 256, (3, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        full_btv = model.logits(flat, tokens_bt[None])[0].view(3, 20, 256)
        rows, lengths = [0, 1, 2], [5, 9, 7]
        sequences = Sequences(
            weights, [tokens_bt[i, :n].tolist() for i, n in enumerate(lengths)], 9
        )
        for step in range(10):
            for logits_v, row in zip(sequences.logits(), rows, strict=True):
                at = lengths[row] + step - 1
                assert (logits_v - full_btv[row, at]).abs().max() <= 1e-5
            if step == 4:
                rows = [2, 0, 0, 1]
                sequences.select(rows)
            sequences.append([int(tokens_bt[row, lengths[row] + step]) for row in rows])
    assert sequences._cache is not None


@pytest.mark.parametrize("position", ["learned", "rope"])
def test_the_cache_is_filled_up_to_the_last_position(position):
    weights = random_weights(position=position, n_ctx=12, spread=0.1)
    tokens = list(range(40, 52))
    with torch.no_grad():
        full_tv = weights.model.logits(weights.flat_1p, torch.tensor([[tokens]]))[0]
        sequences = Sequences(weights, [tokens[:1]], 12)
        for t in range(12):
            assert (sequences.logits()[0] - full_tv[t]).abs().max() <= 1e-5
            if t < 11:
                sequences.append([tokens[t + 1]])
    assert sequences._cache is not None


def test_a_family_without_a_cache_is_recomputed(own_family):
    size.allow(f"{own_family}:Mean")
    for family in ("lstm", f"{own_family}:Mean"):
        weights = random_weights(family=family)
        assert weights.model.cache(weights.flat_1p, 1, 8) is None
        [[one]] = generate(weights, "abc", max_tokens=8, temperature=0)
        ids = list(b"abc")
        for token in one.tokens:
            logits_tv = weights.model.logits(weights.flat_1p, torch.tensor([[ids]]))[0]
            assert token == int(logits_tv[-1].argmax())
            ids.append(token)


def test_a_subclass_of_the_decoder_does_not_inherit_its_cache():
    class Other(Decoder):
        """A decoder whose blocks may differ."""

    weights = random_weights()
    other = Other(weights.run.model, 256)
    assert weights.model.cache(weights.flat_1p, 1, 8) is not None
    assert other.cache(weights.flat_1p, 1, 8) is None


# ------------------------------------------------------------------ prompts and batches

PROMPTS = ["hello", "", "a longer prompt", "é"]


@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 0}, {}, {"top_k": 9, "top_p": 0.8, "samples": 3}, {"temperature": 0.5},
        {"beams": 3, "samples": 2}, {"beams": 4, "length_penalty": 1.0}, {"slide": True},
        {"slide": True, "beams": 2},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("config", [{}, {"position": "rope", "n_kv_head": 1}, {"family": "lstm"}])
def test_prompts_of_a_batch_continue_as_if_alone(config, how):
    weights = random_weights(**config)
    room = 40 if how.get("slide") else 15
    together = generate(weights, PROMPTS, max_tokens=room, seed=3, **how)
    for prompt, expected in zip(PROMPTS, together, strict=True):
        (alone,) = generate(weights, [prompt], max_tokens=room, seed=3, **how)
        assert [each.tokens for each in alone] == [each.tokens for each in expected]
        for a, b in zip(alone, expected, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    small = generate(weights, PROMPTS[::-1], max_tokens=room, seed=3, batch_size=1, **how)
    assert [[s.text for s in own] for own in small[::-1]] == [
        [s.text for s in own] for own in together
    ]


def test_generation_without_the_cache_is_the_same():
    weights = random_weights(position="rope")
    hows: list[dict[str, Any]] = [{}, {"beams": 3}, {"temperature": 0}]
    for how in hows:
        a, b = (generate(weights, PROMPTS, max_tokens=10, use_cache=use, **how)
                for use in (True, False))  # fmt: skip
        assert [s.tokens for own in a for s in own] == [s.tokens for own in b for s in own]


def test_an_empty_prompt_starts_after_end_of_text():
    weights = random_weights()
    [[one]] = generate(weights, "", max_tokens=1, temperature=0)
    logits_tv = weights.model.logits(weights.flat_1p, torch.tensor([[[0]]]))[0]
    assert one.tokens == (int(logits_tv[0].argmax()),)


def test_the_default_length_is_what_the_context_has_room_for():
    weights = random_weights()
    [[one]] = generate(weights, "x" * 30, min_tokens=1, temperature=0)
    assert len(one.tokens) == 3 and one.ended == "length"  # the last is not fed back
    [[full]] = generate(weights, "x" * 32, temperature=0)
    assert len(full.tokens) == 1


def test_what_exceeds_the_context_is_refused_or_slides():
    weights = random_weights()
    with pytest.raises(ConfigError, match=r"prompt longer than the context.*33 tokens.*--slide"):
        generate(weights, "x" * 33)
    with pytest.raises(ConfigError, match="at most 23, or let the context slide with --slide"):
        generate(weights, "x" * 10, max_tokens=24)
    assert generate(weights, "x" * 10, max_tokens=23, min_tokens=23)
    [[one]] = generate(weights, "x" * 40, max_tokens=30, min_tokens=30, temperature=0, slide=True)
    ids = [*b"x" * 40]
    for token in one.tokens:
        logits_v = weights.model.logits(weights.flat_1p, torch.tensor([[ids[-32:]]]))[0, -1]
        logits_v[0] = -math.inf
        assert token == int(logits_v.argmax())
        ids.append(token)


def test_text_ends_at_end_of_text_and_at_stops():
    weights = random_weights(tokenizer=FEW, spread=0.1)
    many = generate(weights, "ab", max_tokens=30, samples=50)[0]
    ended = {each.ended for each in many}
    assert ended <= {"end", "length"} and "end" in ended
    for each in many:
        assert (each.tokens[-1] == FEW.end_of_text) == (each.ended == "end")
        assert FEW.end_of_text not in each.tokens[:-1]
        assert 6 not in each.tokens  # the id that stands for no text
        assert each.text == FEW.decode(each.tokens)
    stopped = generate(weights, "ab", max_tokens=30, samples=50, stop=["a.", "bb"])[0]
    assert "stop" in {each.ended for each in stopped}
    for whole, cut in zip(many, stopped, strict=True):
        at = [i for i in (whole.text.find("a."), whole.text.find("bb")) if i >= 0]
        assert cut.text == (whole.text[: min(at)] if at else whole.text)
        assert cut.tokens == whole.tokens[: len(cut.tokens)]
    late = generate(weights, "ab", max_tokens=30, min_tokens=12, samples=50)[0]
    assert min(len(each.tokens) for each in late) >= 12


def test_log_probabilities_are_those_of_the_model_whatever_the_settings():
    weights = random_weights()
    for how in ({}, {"temperature": 0.3, "top_k": 4}, {"beams": 3, "length_penalty": 2.0}):
        [[one]] = generate(weights, "hello", max_tokens=9, **how)
        ids = [*b"hello", *one.tokens]
        logits_tv = weights.model.logits(weights.flat_1p, torch.tensor([[ids[:-1]]]))[0]
        log_p_tv = logits_tv.log_softmax(1)
        expected = [float(log_p_tv[4 + i, t]) for i, t in enumerate(one.tokens)]
        assert one.logprobs == pytest.approx(expected, abs=1e-4)
        assert one.score == pytest.approx(one.logprob / len(one.tokens) ** how.get(
            "length_penalty", 0))  # fmt: skip


# ------------------------------------------------------------------ sampling


def shares(decoding: Decoding, logits: list[float], n: int = 4001) -> list[float]:
    """Return how often each token is chosen for evenly spread uniform numbers."""
    uniform_b = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    chosen_b = decoding.choose(torch.tensor([logits]).expand(n, -1), uniform_b)
    return (chosen_b.bincount(minlength=len(logits)) / n).tolist()


@given(
    st.lists(st.integers(-80, 80).map(lambda n: n / 10), min_size=2, max_size=12),
    st.floats(0.2, 3),
    st.none() | st.integers(1, 12),
    st.none() | st.floats(0.05, 1),
)
@settings(max_examples=60, deadline=None)
def test_tokens_are_drawn_with_their_probabilities(logits, temperature, top_k, top_p):
    p = torch.tensor(logits).double().div(temperature).softmax(0).tolist()
    order = sorted(range(len(p)), key=lambda i: (-logits[i], i))
    order = order[: top_k or len(p)]
    total, nucleus = sum(p[i] for i in order), []
    for i in order:
        if top_p is None or sum(p[j] for j in nucleus) / total < top_p - 1e-9:
            nucleus.append(i)
    mass = sum(p[i] for i in nucleus)
    expected = [p[i] / mass if i in nucleus else 0.0 for i in range(len(p))]
    found = shares(Decoding(temperature=temperature, top_k=top_k, top_p=top_p), logits)
    if (
        top_p is not None
        and any(  # a tie at the edge of the nucleus may fall to either side
            abs(sum(p[j] for j in order[:k]) / total - top_p) < 1e-6 for k in range(len(order))
        )
    ):
        return
    assert found == pytest.approx(expected, abs=2e-3)


def test_a_tiny_temperature_is_greedy_and_a_huge_one_uniform():
    logits = [1.0, 3.0, 2.0, -4.0]
    assert shares(Decoding(temperature=1e-30), logits) == [0, 1, 0, 0]
    assert shares(Decoding(temperature=0.0), logits) == [0, 1, 0, 0]
    assert shares(Decoding(temperature=1e9), logits) == pytest.approx([0.25] * 4, abs=1e-3)
    assert shares(Decoding(top_k=1), logits) == [0, 1, 0, 0]
    assert shares(Decoding(top_p=1e-9), logits) == [0, 1, 0, 0]


def test_a_limit_far_beyond_the_text_costs_nothing():
    weights = random_weights(tokenizer=FEW, spread=0.1)
    [[one]] = generate(weights, "ab", max_tokens=10**12, slide=True)
    assert one.ended == "end"


def test_seeds_and_samples_differ_and_repeat():
    weights = random_weights()
    a, b = (generate(weights, "x", max_tokens=20, samples=3, seed=s)[0] for s in (0, 1))
    again = generate(weights, "x", max_tokens=20, samples=3, seed=0)[0]
    assert a == again
    assert len({each.tokens for each in (*a, *b)}) == 6
    assert [s.tokens[:8] for s in a] == [
        s.tokens for s in generate(weights, "x", max_tokens=8, samples=3)[0]
    ]


# ------------------------------------------------------------------ beam search


def exhaustive(weights: Weights, prompt: str, length_penalty: float) -> list[tuple[float, tuple]]:
    """Return (score, tokens) of every continuation of one or two tokens that is complete."""
    ids, end = weights.tokenizer.encode(prompt), weights.tokenizer.end_of_text

    def log_p(more: list[int]) -> list[float]:
        logits_tv = weights.model.logits(weights.flat_1p, torch.tensor([[ids + more]]))[0]
        return logits_tv[-1].double().log_softmax(0).tolist()

    first = log_p([])
    found = [(first[end], (end,))]
    known = range(len(weights.tokenizer.tokens or range(256)))
    for token in {*known} - {end}:
        found += [
            ((first[token] + own) / 2**length_penalty, (token, nxt))
            for nxt, own in enumerate(log_p([token]))
            if nxt in known or nxt == end
        ]
    return sorted(found, reverse=True)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, -0.5])
@pytest.mark.parametrize("seed", range(3))
def test_a_beam_as_wide_as_the_vocabulary_is_exhaustive_over_two_tokens(seed, length_penalty):
    weights = random_weights(seed, tokenizer=FEW, spread=0.6)
    expected = exhaustive(weights, "ab", length_penalty)
    (found,) = generate(
        weights, ["ab"], max_tokens=2, beams=8, samples=8, length_penalty=length_penalty
    )
    assert [each.tokens for each in found] == [tokens for _, tokens in expected[:8]]
    assert [each.score for each in found] == pytest.approx([s for s, _ in expected[:8]], abs=1e-5)


def test_a_beam_over_all_bytes_is_exhaustive():
    weights = random_weights(5, spread=0.2)
    score, tokens = exhaustive(weights, "so", 0.0)[0]
    [[found]] = generate(weights, "so", max_tokens=2, beams=256)
    assert found.tokens == tokens and found.score == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("tokenizer", [FEW, BYTES], ids=["few", "bytes"])
@pytest.mark.parametrize("length_penalty", [0.0, 2.0])
def test_a_beam_of_one_is_greedy(tokenizer, length_penalty, monkeypatch):
    """`beams=1` is greedy decoding's other name here, so the search itself is called."""
    from scaling.generate.beams import search

    for seed in range(6):
        weights = random_weights(seed, tokenizer=tokenizer, spread=0.6)
        [[greedy]] = generate(weights, "ab", max_tokens=20, temperature=0)
        none = torch.zeros(tokenizer.vocab_size)
        if tokenizer is FEW:
            none[6] = -math.inf
        end = tokenizer.end_of_text
        with torch.no_grad():
            [[found]] = search(
                Sequences(weights, [tokenizer.encode("ab")], 20),
                lambda logits, n, none=none: logits.double().log_softmax(1) + none,
                lambda tokens, end=end: "end" if tokens[-1] == end else None,
                beams=1,
                limits=[20],
                length_penalty=length_penalty,
            )
        assert found.tokens == greedy.tokens and found.ended == greedy.ended


def test_wider_beams_find_what_is_at_least_as_likely_as_greedy_text():
    for seed in range(4):
        weights = random_weights(seed, tokenizer=FEW, spread=0.6)
        [[greedy]] = generate(weights, "ab", max_tokens=6, min_tokens=6, temperature=0)
        best = generate(weights, "ab", max_tokens=6, min_tokens=6, beams=8, samples=4)[0]
        assert best[0].score >= greedy.score - 1e-4
        assert [each.score for each in best] == sorted((s.score for s in best), reverse=True)
        assert len({each.tokens for each in best}) == 4


def test_a_length_penalty_favours_long_text():
    weights = random_weights(1, tokenizer=FEW, spread=0.1)
    lengths = [
        len(generate(weights, "ab", max_tokens=20, beams=4, length_penalty=p)[0][0].tokens)
        for p in (0.0, 3.0)
    ]
    assert lengths[0] < lengths[1]


# ------------------------------------------------------------------ settings

WRONG = [
    ({"top_p": 0.0}, "top-p 0.0 must be above 0 and at most 1"),
    ({"top_p": 1.5}, "top-p 1.5"),
    ({"top_p": math.nan}, "top-p nan"),
    ({"top_k": 0}, "top-k 0 must be a whole number of at least 1"),
    ({"temperature": -1.0}, "temperature -1.0 must be 0 or a positive number"),
    ({"temperature": math.inf}, "temperature inf"),
    ({"max_tokens": 0}, "max-tokens 0"),
    ({"min_tokens": 5, "max_tokens": 4}, "min-tokens 5 exceeds max-tokens 4"),
    ({"beams": 0}, "beams 0"),
    ({"beams": 4, "temperature": 0.7}, "beams 4 and temperature 0.7 exclude each other"),
    ({"beams": 4, "top_p": 0.7}, "beams 4 and top-p 0.7 exclude each other"),
    ({"beams": 4, "top_k": 7}, "beams 4 and top-k 7 exclude each other"),
    ({"beams": 2, "samples": 3}, "samples 3 exceeds beams 2"),
    ({"length_penalty": 1.0}, "length-penalty 1.0 needs a beam search"),
    ({"temperature": 0.0, "samples": 2}, "samples 2: greedy decoding has one continuation"),
    ({"seed": -1}, "seed -1"),
    ({"beams": 2, "length_penalty": 1e3}, "length-penalty 1000.0 must be a number from -20 to 20"),
    ({"beams": 2, "length_penalty": math.nan}, "length-penalty nan"),
]


@pytest.mark.parametrize(("how", "message"), WRONG, ids=[str(how) for how, _ in WRONG])
def test_a_wrong_setting_is_named(how, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        generate(random_weights(), "x", **how)


def test_prompts_and_stops_must_be_text():
    with pytest.raises(ConfigError, match="a prompt must be text, not 3"):
        generate(random_weights(), [3])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="stop '' must be a text of at least one character"):
        generate(random_weights(), "x", stop="")
    assert generate(random_weights(), []) == []


# ------------------------------------------------------------------ the judge


def test_repeated_4_grams_are_those_seen_before():
    assert repeated([1, 2, 3, 4, 5, 6]) == 0
    assert repeated([1] * 7) == 3 / 4
    assert repeated([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert math.isnan(repeated([1, 2, 3]))


@pytest.mark.parametrize("length", [3, 31, 32, 33, 200])
def test_bits_per_byte_are_those_of_the_judge_over_the_text_alone(length):
    judge = random_weights(7)
    text = ("Four score and seven years ago. " * 9)[:length]
    (found,) = bits_per_byte(judge, [text], ["It began: "])
    ids = [*b"It began: ", *text.encode()]
    total = 0.0
    for i in range(10, len(ids)):  # token by token, with at least half a context before each
        if len(ids) <= 33:
            before = ids[:i]
            logits_tv = judge.model.logits(judge.flat_1p, torch.tensor([[before]]))[0]
            total -= float(logits_tv[-1].double().log_softmax(0)[ids[i]])
    if len(ids) <= 33:
        assert found == pytest.approx(total / math.log(2) / length, rel=1e-5)
    assert 0 < found < 20


def test_texts_are_judged_in_a_batch_as_if_alone():
    judge = random_weights(7, tokenizer=FEW)
    texts = ["ab" * 30, "c", "", "a. b"]
    together = bits_per_byte(judge, texts, ["", "ab", "c", "a"])
    for text, prompt, expected in zip(texts, ["", "ab", "c", "a"], together, strict=True):
        (alone,) = bits_per_byte(judge, [text], [prompt])
        assert alone == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_a_judge_of_another_vocabulary_reads_the_same_bytes(text_file, own_cache):
    writer = random_weights(1, corpus=text_file)
    pairs = passages(writer, 12)
    assert len(pairs) == 12
    for prompt, text in pairs:
        assert text.startswith(" ") and not prompt.endswith(" ")
        assert len(prompt.encode()) >= 120 and len((prompt + text).encode()) >= 700
    pairs = [("ab", "ab c. " * 9), ("a", "ab. c" * 9), ("", "c" * 30)]
    other = random_weights(2, tokenizer=PAIRS)
    found = judged(writer, other, pairs, tokens=8)
    assert found.passages == 3 and found.difference == found.bits_per_byte - found.human
    few = random_weights(2, tokenizer=FEW)
    own = judged(few, writer, pairs, tokens=8)
    human = bits_per_byte(writer, [FEW.decode(FEW.encode(t)[:8]) for _, t in pairs],
                          [p for p, _ in pairs])  # fmt: skip
    sizes = [len(FEW.decode(FEW.encode(t)[:8])) for _, t in pairs]
    expected = sum(h * n for h, n in zip(human, sizes, strict=True)) / sum(sizes)
    assert own.human == pytest.approx(expected, rel=1e-6)


def test_text_that_a_model_writes_about_itself_costs_as_much_as_it_says():
    """The judge's cross-entropy of its own samples is its entropy, whatever people write."""
    weights = random_weights(3, spread=0.1)
    pairs = [(f"{i} is a number", "nothing at all to read here, truly") for i in range(40)]
    found = judged(weights, weights, pairs, tokens=16, seed=5)
    written = generate(weights, [p for p, _ in pairs], max_tokens=16, min_tokens=16, seed=5)
    assert found.repeated == 0 and found.stderr > 0
    clean = [s for own in written for s in own if "\ufffd" not in s.text and "\0" not in s.text]
    assert len(clean) < 40 or found.bits_per_byte == pytest.approx(
        -sum(s.logprob for s in clean) / math.log(2) / 16 / len(clean), rel=1e-4
    )


def test_greedy_text_repeats_itself(text_file, own_cache):
    weights = random_weights(3, corpus=text_file)
    pairs = passages(weights, 10)
    greedy = judged(weights, weights, pairs, temperature=0)
    assert greedy.repeated > judged(weights, weights, pairs).repeated
    assert greedy.difference < 0 < greedy.stderr


def test_too_few_texts_to_judge_are_refused():
    weights = random_weights()
    with pytest.raises(ConfigError, match=r"at least 2 texts of 16 tokens.*not 1"):
        judged(weights, weights, [("a", "long enough to be judged"), ("b", "short")])


# ------------------------------------------------------------------ the command


@pytest.fixture
def results(tmp_path, text_file, own_cache, monkeypatch) -> Path:
    """A results folder with three random models, as if trained with their weights kept."""
    monkeypatch.chdir(tmp_path)
    for seed, width in ((0, 8), (1, 16), (2, 24)):
        keep(tmp_path / "results", random_weights(seed, corpus=text_file, d_model=width))
    return tmp_path / "results"


def test_a_run_is_a_folder_or_a_prefix_of_an_id(results, capsys):
    folder = sorted((results / "runs").iterdir())[0]
    words = ["--prompt", "The king", "--beams", 4, "--max-tokens", 20, "--seed", 0]
    printed = []
    for run in (folder, results / folder.name, results / folder.name[:6], f"results/{folder.name}"):
        assert call("generate", run, *words) == 0
        out = capsys.readouterr()
        assert "samples.json" not in out.err
        printed.append(out.out)
    assert len(set(printed)) == 1 and "[The king]" in printed[0] and folder.name in printed[0]
    assert not (results / "samples.json").exists()


def test_all_runs_of_a_folder_write_beside_each_other(results, capsys, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("The king\r\n\nOnce <b>upon</b>\n")
    words = ["--prompts", file, "--prompt", "", "--max-tokens", 9, "--json"]
    judge = sorted((results / "runs").iterdir())[0]
    assert call("generate", results, *words, "--judge", judge) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [each["prompt"] for each in shown["samples"]] == [
        *[""] * 3, *["The king"] * 3, *["Once <b>upon</b>"] * 3
    ]  # fmt: skip
    for each in shown["samples"]:
        assert each["tokens"] <= 9 and each["logprob"] < 0 and each["run_id"]
        assert each["bits_per_byte"] is None or each["bits_per_byte"] > 0
    assert shown["settings"]["judge"] == judge.name
    found = kept.read(results)
    assert [each["text"] for each in found] == [each["text"] for each in shown["samples"]]


def test_models_are_judged_on_held_out_text_without_a_prompt(results, capsys):
    judge = sorted((results / "runs").iterdir())[0]
    assert call("generate", results, "--judge", judge, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert [each["N"] for each in shown["judged"]] == sorted(e["N"] for e in shown["judged"])
    assert {"bits_per_byte", "human", "difference", "stderr", "repeated"} <= set(shown["judged"][0])
    assert call("generate", judge, "--judge", results / judge.name[:8]) == 0
    assert "repeated 4-grams (human)" in capsys.readouterr().out
    assert not (results / "samples.json").exists()


def wrong_calls(results: Path) -> list[tuple[list[object], str]]:
    run = sorted((results / "runs").iterdir())[0]
    (results.parent / "empty" / "runs" / "0123").mkdir(parents=True)
    (results.parent / "blank.txt").write_text("\n\n")
    (results.parent / "other.txt").write_bytes(b"\xff\xfe\0")
    prompt = ["--prompt", "x"]
    return [
        ([run], "needs a prompt, such as --prompt"),
        ([results / "zzz", *prompt], "'zzz' matches no run with weights"),
        (["nowhere", *prompt], "nowhere is not there"),
        (["nowhere/at/all", *prompt], "is not there"),
        (["empty", *prompt], "keep"),
        (["empty/runs/0123", *prompt], "keep"),
        (["empty/0123", *prompt], "keep"),
        ([run, "--prompt", "x" * 40], "prompt longer than the context"),
        ([run, *prompt, "--max-tokens", 99], "Generate at most 32, or let the context slide"),
        ([run, *prompt, "--top-p", 1.5], "top-p 1.5 must be above 0 and at most 1"),
        ([run, *prompt, "--beams", 2, "--temperature", 1], "exclude each other"),
        ([run, *prompt, "--judge", "nowhere"], "nowhere is not there"),
        ([run, *prompt, "--judge", results], "holds 3 runs with weights"),
        ([run, "--prompts", "missing.txt"], "missing.txt"),
        ([run, "--prompts", "blank.txt"], "has no prompts"),
        ([run, "--prompts", "other.txt"], "UTF-16"),
        ([run, *prompt, "--stop", ""], "must be a text of at least one character"),
        ([run, *prompt, "--device", "toaster"], "toaster"),
    ]


def test_a_wrong_call_has_one_line_and_exit_code_2(results, capsys):
    for words, message in wrong_calls(results):
        assert call("generate", *words) == 2, words
        printed = capsys.readouterr()
        assert printed.out == "" and message in printed.err, (words, printed.err)
        assert printed.err.count("\n") == 1 and "Traceback" not in printed.err, printed.err


def test_a_link_in_place_of_the_samples_is_not_followed(results, tmp_path, capsys):
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (results / "samples.json").symlink_to(victim)
    assert call("generate", results, "--prompt", "x", "--max-tokens", 3) == 2
    assert victim.read_text() == "mine" and "links" in capsys.readouterr().err


# ------------------------------------------------------------------ the report


def sample(N: float, L: float | None = 3.0, text: str = "text", **more) -> dict:
    return {"run_id": f"{N}-{L}", "N": N, "D": 1e6, "L": L, "prompt": "p", "text": text} | more


def test_the_report_shows_samples_by_size_with_all_text_escaped(tmp_path):
    assert section(tmp_path) == []
    evil = "<script>alert(1)</script>\u202e & more"
    kept.write(tmp_path, {}, [
        sample(2e4, 2.5, "large"), sample(1e3, 3.5, evil, bits_per_byte=2.25, repeated=math.nan),
        sample(1e3, 3.9, "worse"), sample(1e3, None, "unknown", prompt="<i>&"),
    ])  # fmt: skip
    page = "".join(section(tmp_path))
    assert page.index("alert") < page.index("large") and "worse" not in page
    assert "<script>" not in page and "&lt;script&gt;" in page and "&lt;i&gt;&amp;" in page
    assert "\u202e" not in page and "2.250" in page and "judged bits/byte" in page
    assert section(tmp_path / "samples.json") == []  # a table, not a folder


def test_the_page_of_a_folder_with_samples_has_their_section(tmp_path, monkeypatch, sweep):
    runs, curves = sweep()
    table.write(tmp_path, runs.to_dict("records"), curves.to_dict("records"))
    summary = summarise(tmp_path, draw=False)
    assert "Samples beside scale" not in html.page(summary, {}, {}, {})
    kept.write(tmp_path, {}, [sample(2e4, 2.5, "<b>bold"), sample(1e3)])
    page = html.page(summary, {}, {}, {})
    assert "<h2>Samples beside scale</h2>" in page and "&lt;b&gt;bold" in page


def test_at_most_eight_sizes_are_shown_smallest_and_largest_included():
    rows = by_size([sample(N, L) for N in range(1, 31) for L in (3.0, 2.0)])
    assert [row["N"] for row in rows][:: len(rows) - 1] == [1, 30] and len(rows) == 8
    assert {row["L"] for row in rows} == {2.0}


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", '{"schema": 9, "samples": []}', '{"schema": 1}', '{"schema": 1, "samples": [3]}',
        '{"schema": 1, "samples": [{"run_id": "a", "prompt": "b", "text": 3}]}',
        '{"schema": 1, "samples": [{"run_id": "a", "prompt": "b", "text": "c", "N": "d"}]}',
        '{"schema": 1, "samples": [{"run_id": "a", "prompt": "b", "text": "c", "L": true}]}',
        "[" * 100_000,
    ],
    ids=lambda content: content[:70],
)  # fmt: skip
def test_damaged_samples_are_refused_with_what_to_do(content, tmp_path):
    (tmp_path / "samples.json").write_text(content)
    with pytest.raises(TableError, match=r"samples.json cannot be read: .*scaling generate RES"):
        section(tmp_path)
