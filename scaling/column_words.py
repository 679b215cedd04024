"""What the name of a column says that it holds: the words that people and tools use.

One source of words for every guess and hint. Nothing is renamed here, and no value is seen;
analysis/tables/guess.py looks at the values too. Imports nothing heavy.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from dataclasses import dataclass, replace

from scaling.mapping import in_expression
from scaling.units import PF_DAY


@dataclass(frozen=True)
class Meaning:
    """What the name of one column says."""

    symbol: str
    """Symbol, such as N, or `sequences` for a batch size whose unit the name leaves open."""
    scale: float = 1.0
    """Factor that the name gives, such as 1e6 for params_M."""
    function: str = ""
    """log, log2 or log10 if the column is that logarithm of the quantity (`log?` if the base is
    not known); perplexity, bits or bits_per_byte for losses in these units; `log2?` or `log10?` for
    a loss in bits or decimal digits, or its logarithm."""
    kind: str = ""
    """held-out or training for a loss; total, non-embedding or active for parameters."""
    rank: tuple[int, ...] = (0,)
    """Larger is better among columns of one symbol."""


_SPELLINGS: tuple[tuple[str, str], ...] = (
    # bits and nats
    (r"(bits|bit)_?(per|_)_?(bytes?|char|character|chars|word)|bpb|bpc|bpw", "bpb"),
    (r"(bits|bit)_?(per)?_?tok(en)?s?|bpt", "bits"),
    (r"nats?_?(per)?_?tok(en)?s?|nats?|per_tok(en)?|pro_token", "nats"),
    # losses
    (r"cross_?entropy(_loss)?|xent(ropy)?|ce_loss|nll(_loss)?|neg(ative)?_log_likelihood|lm_loss"
     r"|ce|kreuzentropie|entropie_croisee|entropia_cruzada", "loss"),
    (r"log_?loss", "logloss"),
    (r"loss(es)?|verlust|testverlust|perte|perdida|perda|perdita|loss_value"
     r"|损失|損失|потери|потеря", "loss"),
    (r"perplexity|perplexities|ppls?|perplexitat|perplexite|token_(perplexity|ppl)|perplejidad|perplexidade|perplessita"
     r"|困惑度|перплексия", "ppl"),
    # ratios and rates
    (r"(tok(en)?s?|d)_?per_?(n|param(eter)?s?)|tok(en)?s?_(to_)?param(eter)?s?(_ratio)?|d_n(_ratio)?"
     r"|token_param_ratio", "tokensperparam"),
    (r"(tok(en)?s?|flops?|tflops?|steps?|it|samples?|iters?)_?(per_?|_|/)s(ec(ond)?s?)?|tps|mfu"
     r"|throughput|flops?_(per_)?(tok(en)?|step|forward|sample)s?|gflops?", "rate"),
    # batch
    (r"tok(en)?s?_?(per|in)_?(the_)?(step|batch|update|iter(ation)?)s?"
     r"|batch_?(size)?_?(in_)?tok(en)?s?(_count)?|tok(en)?_batch(_size)?|global_batch_tok(en)?s",
     "batchtokens"),
    (r"(per_?device|micro|mini|device|local|per_gpu|eval|valid(ation)?|val|test|infer(ence)?)"
     r"_?(train_)?(batch(_?size)?|bsz|bs|mbs)|mbs|gradient_accumulation\w*|grad_acc\w*", "rate"),
    (r"(global|effective|total|train(ing)?)?_?batch_?size|(global|effective|total)_batch|batch|bsz"
     r"|bs|gbs|batchgro(ss|s|ß)e|taille_(de|du)_(lot|batch)|tamano_(de|del)_lote|sequences_per_batch"
     r"|(tamanho_do_lote)|批次?大小|批量大小", "batch"),
    # learning rate
    (r"learning_?rates?|lrs?|lernrate|taux_d_apprentissage|tasa_de_aprendizaje"
     r"|taxa_de_aprendizado|tasso_di_apprendimento|学习率|学習率", "lr"),
    # shape
    (r"(max_)?seq(uence)?_?len(gth)?s?|max_target_len(gth)?|(max_)?context_?(len(gth)?|size|window)?|ctx(_?len(gth)?)?"
     r"|n_?ctx|block_?size|max_position_embeddings|n_positions|seq|sequence|kontextlange"
     r"|longueur_de_(sequence|contexte)", "nctx"),
    (r"intermediate_(size|dim)|d_?ffn?|ffn?w?_?(hidden|size|dim|width|inner)(_size|_dim)?|mlp_"
     r"(dim|size|width|hidden)|feed_?forward_(dim|size|width)|hidden_ff|n_inner", "dff"),
    (r"hidden_?(size|dim|width)s?|d_?model|model_(dim|width)|n_?emb(e?d)?|(embed(ding)?|emb)_?"
     r"(dim|size)s?|width|dim|residual_(dim|width)|breite|largeur", "dmodel"),
    (r"(n|num|number_of)?_?(kv|key_value)_heads?|n_head_kv|num_query_groups", "kvheads"),
    (r"(n|num|number_of)?_?(attention|attn)?_?heads?", "heads"),
    (r"(n|num|number_of)?_?(hidden|transformer|decoder)?_?(layers?|blocks?)|depth|schichten"
     r"|couches|capas", "layers"),
    (r"(n_?)?vocab(ulary)?(_?size)?|vokabular(grosse)?|taille_du_vocabulaire", "vocab"),
    # compute
    (r"pf_?(s_)?days?|peta_?flops?_?(per_)?(s_)?(second_)?days?|pflops?_?(s_)?days?", "pfdays"),
    (r"exa_?flops?|eflops?", "eflops"),
    (r"zetta_?flops?|zflops?", "zflops"),
    (r"peta_?flops?|pflops?", "pflops"),
    (r"tera_?flops?", "tflops"),
    (r"flops?|flos|(train(ing)?_|total_)?compute|rechenaufwand|calcul|computo|计算量|計算量"
     r"|вычисления", "flops"),
    # parameters
    (r"non_?emb(ed(d(ing)?)?)?s?|(no|without|wo|w_o|ex|excl|excluding|minus)_emb(ed(ding)?)?s?"
     r"|sans_embeddings?|ohne_embeddings?", "nonemb"),
    (r"(model_?size|modellgro(ss|s|ß)e|taille_du_modele|tamano_del_modelo)(_in)?(_params?)?",
     "params"),
    (r"(n|num|nb|no)?_?param(eter)?s?(_?counts?)?|parameter(an)?zahl|parametres?|parametros?|parametri"
     r"|n_weights|num_weights|参数量?|パラメータ数?|параметры|параметров", "params"),
    # tokens
    (r"unique_tok(en)?s?|tok(en)?s?_unique|distinct_tok(en)?s?", "uniquetokens"),
    (r"(n|num|nb|no)?_?tok(en)?s?|jetons|fichas|simbolos_de_entrenamiento|gettoni|トークン数?"
     r"|令牌数?|词元数?|токены|токенов", "tokens"),
    # steps
    (r"(n|num|nb)?_?(steps?|iters?|iterations?|updates?)|schritte?|schrittzahl|etapes?|pasos?"
     r"|passos?|passi|pas|步数|ステップ数?|шаги|шагов", "steps"),
    (r"(random_?)?seed|zufallszahl|graine|semilla", "seed"),
)  # fmt: skip
"""Spellings of each head word; the first that matches counts. Words are joined by _."""

_GLUED = re.compile(
    r"^(n|num|nb|total|model|val|valid|validation|validierungs|trainings|test|train|training|eval|dev|final|min|best|max"
    r"|heldout|batch|log10|log2|log|ln|lg|unique)"
    r"(loss|ppl|perplexity|verlust|params?|parameters?|tokens?|steps?|layers?|heads?|flops?|size"
    r"|bpb|nll|lr)([kmbt]?)$"
)
_SCALED = re.compile(r"^(k|kilo|m|mega|b|g|giga|t)(tok(?:en)?s?|params?|parameters?)$")
"""A unit before its word, as in ktokens."""
_JOINED = re.compile("(检验|验证|测试|検証|训练|訓練)(?=损失|損失)")
"""Words before a loss that are written without a space."""
_HELD_OUT = {"val", "valid", "validation", "validierungs", "validierung", "validacion", "test",
             "eval", "evaluation", "dev", "heldout", "held", "holdout", "prueba", "teste", "检验",
             "验证", "测试", "検証"}  # fmt: skip
_TRAIN = {
    "train",
    "training",
    "trainings",
    "trn",
    "tr",
    "entrenamiento",
    "treino",
    "entrainement",
    "训练",
}
_LAST = {"final", "last", "end", "finale", "finaler", "endgultig"}
_SMOOTH = {"ema", "smooth", "smoothed", "avg", "average", "mean", "moyenne"}
_BEST = {"min", "minimum", "best", "lowest", "max", "running"}
_TOTAL = {"total", "all", "full", "overall", "gesamt", "totaux", "totales", "whole"}
_SEEN = {
    "cum",
    "cumulative",
    "seen",
    "processed",
    "consumed",
    "trained",
    "so",
    "far",
    "used",
    "vus",
    "vistos",
}
_CEILING = {"total", "max", "target", "planned", "budget"}
_STDERR = {"stderr", "se", "sem"}
_UNITS_OF_TEXT = {"word", "words", "byte", "bytes", "char", "chars", "character", "characters"}
_PEAK = {"peak", "max", "maximum", "base", "init", "initial", "start"}
_IGNORED = {
    "n", "num", "nb", "no", "number", "of", "de", "des", "der", "du", "la", "le", "del", "d", "the",
    "in", "count", "counts", "config", "cfg", "summary", "args", "arg", "hparams", "hparam", "l",
    "hyperparameters", "model", "run", "metrics", "metric", "stats", "lm", "language", "decoder",
    "value", "values", "nombre", "numero", "anzahl", "out", "set", "nats", "size", "data", "c",
    "trainer", "optim", "optimizer", "optimiser", "global", "trainable", "dataset", "is", "at",
    "history", "result", "results", "on", "curve", "log", "pretrain", "pretraining",
}  # fmt: skip
_FORBIDDEN = {
    "std", "stdev", "stddev", "var", "variance", "stderr", "se", "sem", "err", "error", "ratio",
    "scale", "scaling", "scaler", "weight", "weights", "coef", "coeff", "coefficient", "spike",
    "spikes", "second", "sec", "time", "seconds", "hours", "minutes", "ms", "grad", "gradient",
    "delta", "diff", "difference", "gap", "aux", "auxiliary", "z", "kl", "improvement", "rank",
    "slope", "exponent", "pred", "predicted", "prediction", "fit", "fitted", "baseline",
    "reducible", "irreducible", "entropy", "reg", "regularization", "router", "balance",
    "balancing", "threshold", "type", "fn", "func", "function", "name", "path", "file", "warmup",
    "decay", "logging", "save", "every", "interval", "freq", "frequency", "cooldown", "peak",
    "achieved", "device", "gpu", "hardware", "memory", "mem", "gb", "mb", "cost",
    "price", "dollars", "usd", "embedding", "embeddings", "embed", "emb", "norm", "clip", "id",
    "index", "idx", "percent", "pct", "fraction", "frac", "share", "expert", "experts", "special",
    "pad", "padding", "smoothing", "position", "accuracy", "acc", "top", "drop", "dropout",
    "remaining", "left", "eta", "estimate", "estimated", "lower", "upper", "low", "high", "ci",
    "epochs", "epoch", "generated", "new", "prompt", "completion", "reward", "per", "rate",
    "schedule", "scheduler", "url", "hash", "dtype", "precision", "skip", "skipped", "frozen",
    "relative", "normalized", "normalised", "excess", "minus", "sum", "summed", "millinats",
    *_UNITS_OF_TEXT,
}  # fmt: skip
_SCALES = {
    "k": 1e3, "kilo": 1e3, "thousand": 1e3, "thousands": 1e3, "m": 1e6, "mm": 1e6, "mio": 1e6,
    "mega": 1e6, "million": 1e6, "millions": 1e6, "millionen": 1e6, "millones": 1e6, "milhoes": 1e6,
    "b": 1e9, "bn": 1e9, "billion": 1e9, "billions": 1e9, "milliarden": 1e9, "milliards": 1e9,
    "mrd": 1e9, "g": 1e9, "giga": 1e9, "t": 1e12, "tn": 1e12, "trillion": 1e12, "trillions": 1e12,
    "万": 1e4, "萬": 1e4, "亿": 1e8, "億": 1e8,
}  # fmt: skip
_FLOPS = {"flops": 1.0, "pfdays": PF_DAY, "tflops": 1e12, "pflops": 1e15, "eflops": 1e18,
          "zflops": 1e21}  # fmt: skip
_LOGS = {"log10": "log10", "lg": "log10", "log2": "log2", "ln": "log", "log": "log?"}
_LOSSES = {"loss", "logloss", "ppl", "bits", "bpb", "nats"}
_OTHER = {
    "layers": "n_layer", "dmodel": "d_model", "heads": "n_head", "kvheads": "n_kv_head",
    "dff": "d_ff", "vocab": "vocab_size", "nctx": "n_ctx", "seed": "seed",
    "uniquetokens": "D_unique", "batchtokens": "B", "batch": "sequences",
    "tokensperparam": "D/N",
}  # fmt: skip
"""Symbols of head words whose names take no unit or logarithm."""
_HEADS = {head for _, head in _SPELLINGS}
_POWER = re.compile(r"(?:[x×*]\s*|(?<![\w.]))(?:1e\+?|10\s?(?:\^|\*\*)\s?)(\d{1,2})(?!\d)")
"""Pattern of a power of ten, such as 1e6 or 10^6."""
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_LETTERS = {"N": "params", "D": "tokens", "C": "flops", "L": "loss"}


_BESIDE_LETTERS = {*_SCALES, *_LOGS, *_HELD_OUT, *_TRAIN, *_LAST, *_TOTAL, *_SEEN, "active", "in"}


_PREFIX = re.compile(
    r"(?:(?:data|params?|parameters|metrics?|config|summary|hparams?|args|tags|user_attrs?|attrs"
    r"|hyperparameters)(?:\.|__)"
    r"|(?:config|summary|hparams?|metrics|args|hyperparameters|parameters)/"
    r"|params_|user_attrs_)(?=.)",
    re.IGNORECASE,
)
"""What trackers write before the name of a setting or a measurement, as in params.n_tokens."""
_LIKELY = (
    (re.compile(r"(?:training[_ ]?)?(?:data[_ ]?set|data|corpus)[_ ]?size"
                r"|train(?:ing)?[_ ]?data", re.I), "tokens", 1.0),
    (re.compile(r"gflops?|giga_?flops?", re.I), "flops", 1e9),
    (re.compile(r"sizes?(?=_|$|[ (\[])", re.I), "params", 1.0),
)  # fmt: skip
"""Words that may stand for a quantity, but are too vague to be taken unasked."""


def likely_meaning(name: str) -> Meaning | None:
    """Return what a name may mean that says nothing certain, as a suggestion."""
    for pattern, word, scale in _LIKELY:
        if pattern.search(name) and (what := meaning(pattern.sub(word, name))) is not None:
            return replace(what, scale=what.scale * scale)
    return None


@functools.lru_cache(maxsize=4096)
def meaning(name: str) -> Meaning | None:
    """Return what the name of a column says; None if it says nothing that is known."""
    prefix = _PREFIX.match(name)
    if prefix and (what := meaning(name[prefix.end() :])) is not None:
        return what
    words, scale = _words(name)
    if "%" in name:
        return None
    heads = [word for word in words if word in _HEADS]
    if not heads:  # N (M), D_B, log10(N), L_test: a symbol with a unit or a kind
        letter = re.search(r"(?<![a-zA-Z])[NDCL](?![a-zA-Z])", name)
        rest = [word for word in words if word != (letter[0].lower() if letter else "")]
        if letter is None or not set(rest) <= _BESIDE_LETTERS:
            return None
        heads, words = [_LETTERS[letter[0]]], rest
    rest = [word for word in words if word not in heads]
    if set(heads) <= _LOSSES:
        after = words[words.index(heads[0]) :] if heads[0] in words else []
        return _loss(heads, rest, after)
    if set(heads) <= {"params", "nonemb"}:
        return _count("N", heads, rest, scale)
    if set(heads) <= set(_FLOPS):
        return _count("C", heads, rest, scale)
    if len(set(heads)) > 1 or "rate" in heads:
        return None
    if heads[0] in ("tokens", "steps"):
        return _count({"tokens": "D", "steps": "S"}[heads[0]], heads, rest, scale)
    return _plain(heads[0], rest, scale)


BASES = {"log10": 10.0, "log": math.e, "log2": 2.0}
"""Bases of the logarithms that a column may hold."""
_INVERSES = {
    "log10": "10**{}", "log": "exp({})", "log2": "2**{}", "log?": "10**{}",
    "log2?": "log(2)*{}", "log10?": "log(10)*{}",
    "perplexity": "log({})", "perplexity of text": "log({})", "log10 perplexity": "log(10)*{}",
    "log2 perplexity": "log(2)*{}", "bits": "log(2)*{}",
}  # fmt: skip


def expression(column: str, what: Meaning) -> str:
    """Return a column in our units as an expression, as far as its name tells: 1e6*params_M."""
    name = in_expression(column)
    if what.function in _INVERSES:
        name = _INVERSES[what.function].format(name)
    if what.scale != 1:
        factor = re.sub(r"e\+?0*(?=\d)", "e", f"{what.scale:.6g}")
        return f"{factor}*{name}"
    return name if what.function in _INVERSES else column


def _loss(heads: list[str], rest: list[str], after: list[str]) -> Meaning | None:
    """Return the meaning of a name of a loss, or of its standard error.

    after: the words from the first head word on: the base in 'loss (log2)' may be that of its unit.
    """
    words = set(rest)
    if heads == ["nats"]:
        return None
    if words & _STDERR and not words & (_FORBIDDEN - _STDERR):
        return Meaning("L_stderr")
    extra = words - _IGNORED - _HELD_OUT - _TRAIN - _LAST - _SMOOTH - _BEST - set(_LOGS) - {"base2"}
    of_text = words & _UNITS_OF_TEXT if "ppl" in heads else set()
    if words & _FORBIDDEN - (of_text and {*of_text, "per"}):
        return None
    kind = "held-out" if words & _HELD_OUT else "training" if words & _TRAIN else ""
    function = next((_LOGS[word] for word in rest if word in _LOGS), "")
    unit = next((head for head in ("ppl", "bpb", "bits", "logloss") if head in heads), "")
    if of_text:
        function = "perplexity of text"
    elif "exp" in words and not unit:
        function, extra = "perplexity", extra - {"exp"}
    elif unit == "ppl":
        # The logarithm of a perplexity is the loss itself; of base 10 or 2 it is not.
        function = {"": "perplexity", "log": "", "log?": ""}.get(function, f"{function} perplexity")
    elif unit == "bpb":
        function = "bits_per_byte"
    elif unit == "bits":
        function = "bits"
    elif unit == "logloss":
        function = "log?"
    elif "base2" in words:
        function = "bits"
    elif function in ("log2", "log10") and function in after:
        function += "?"
    held_out = {"held-out": 2, "": 1, "training": 0}[kind]
    last = 2 if words & _LAST else -1 if words & _BEST else 0 if words & _SMOOTH else 1
    per_token = function not in ("bits_per_byte", "perplexity of text") and kind != "training"
    rank = (per_token, held_out, not function, last, -len(extra))
    return Meaning("L", function=function, kind=kind, rank=tuple(map(int, rank)))


def _count(symbol: str, heads: list[str], rest: list[str], scale: float) -> Meaning | None:
    """Return the meaning of a name of parameters, tokens, steps or FLOPs."""
    words, kind, level = set(rest), "", 1
    if words & _FORBIDDEN or words & (_HELD_OUT - _TRAIN):
        return None
    known = _IGNORED | _TRAIN | set(_LOGS) | set(_SCALES) | _LAST
    if symbol == "N":
        active = words & {"active", "activated", "aktive"}
        total = words & _TOTAL
        kind = "non-embedding" if "nonemb" in heads else "active" if active else ""
        kind = kind or ("total" if total else "")
        known |= _TOTAL | active
    elif symbol == "C":
        if heads == ["tflops"] and not words & (_TRAIN | _TOTAL):
            return None  # most often TFLOP/s
        known |= _TOTAL
        for head in heads:
            scale *= _FLOPS[head]
    else:
        level = 2 if words & _SEEN else 0 if words & _CEILING else 1
        known |= _SEEN | _CEILING
    for word in rest:
        scale *= _SCALES.get(word, 1.0)
    function = next((_LOGS[word] for word in rest if word in _LOGS), "")
    return Meaning(symbol, scale, function, kind, (level, -len(words - known)))


def _plain(head: str, rest: list[str], scale: float) -> Meaning | None:
    """Return the meaning of a name of a batch, a learning rate, a shape or a seed."""
    words = set(rest)
    if words & (_LOGS.keys() | _HELD_OUT):
        return None
    if head == "lr":
        extra = words - _IGNORED - _TRAIN - _PEAK
        if extra & (_FORBIDDEN | _BEST | _LAST):
            return None
        return Meaning("lr_peak", rank=(int(bool(words & _PEAK)), -len(extra)))
    if words & _FORBIDDEN:
        return None
    for word in rest:
        scale *= _SCALES.get(word, 1.0)
    if head == "heads" and words & {"d", "dim"}:
        return None  # their width
    extra = words - _IGNORED - _TRAIN - {"total", "max", "effective"} - set(_SCALES)
    return Meaning(_OTHER[head], scale, rank=(0, -len(extra)))


def _words(name: str) -> tuple[list[str], float]:
    """Return the words of a name, heads in their one spelling, and the power of ten in it."""
    text, scale = name, 1.0
    text = re.sub("10([⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: "10^" + m[1].translate(_SUPERSCRIPTS), text)
    if power := _POWER.search(text):
        text, scale = text.replace(power[0], " "), 10.0 ** int(power[1])
    text = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})", "_", text)
    text = _normal(text)
    text = re.sub(r"base[ _]?2(?!\d)", "base2", text)
    text = _JOINED.sub(r"\1_", text)
    glued = [
        _SCALED.sub(r"\1_\2", _GLUED.sub(r"\1_\2_\3", word).strip("_"))
        for word in re.findall(r"[^\W_]+", text)
    ]
    text = "_".join(glued).replace("log_10", "log10")
    for pattern, head in _patterns():
        text = pattern.sub(head, text)
    return text.split("_"), scale


def _normal(text: str) -> str:
    """Return text in lower case without accents."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(sign for sign in parts if not unicodedata.combining(sign)).casefold()


@functools.cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    return [
        (re.compile(f"(?<![^_])(?:{_normal(spelling)})(?![^_])"), head)
        for spelling, head in _SPELLINGS
    ]
