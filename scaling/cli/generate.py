"""The command that lets trained models write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling import progress
from scaling.cli.options import Json, Seed
from scaling.cli.output import note, show, show_json
from scaling.cli.trained import allow, folder_of, folders_of
from scaling.errors import ConfigError
from scaling.extras import require
from scaling.files import EncodingError, read_text
from scaling.units import count

if TYPE_CHECKING:
    from scaling.generate import Judged
    from scaling.weights import Weights

Record = dict[str, Any]


def generate(
    run: str,
    *,
    prompt: tuple[str, ...] = (),
    prompts: Path | None = None,
    max_tokens: int | None = None,
    min_tokens: int = 0,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    beams: int = 1,
    length_penalty: float = 0.0,
    samples: int = 1,
    stop: tuple[str, ...] = (),
    slide: bool = False,
    judge: str | None = None,
    allow_code: tuple[str, ...] = (),
    device: str = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Continue prompts with a trained model, or with all models of a sweep.

    Example: scaling generate results/quickstart/3f2a --prompt "The king" --top-p 0.9
    Example: scaling generate results/quickstart --judge results/quickstart/3f2a

    Args:
        run: Folder of a run with weights, RESULTS/ID with a prefix of its id, or a results folder:
            all of its runs with weights continue the prompts, and its samples.json keeps what they
            wrote, for `scaling report`.
        prompt: Text to continue. An empty one starts a new text.
        prompts: File with one prompt per line; empty lines are left out.
        max_tokens: Most tokens of a continuation. Default: 50, or fewer if the context has no room
            for them.
        min_tokens: Tokens before which the text cannot end.
        temperature: Divides the logits before sampling; 0 takes the most likely token. Default: 1.
        top_k: Sample from this many of the most likely tokens.
        top_p: Sample from the smallest set of the most likely tokens with this probability
            (nucleus sampling).
        beams: Width of a beam search, which takes the place of sampling.
        length_penalty: A beam's score is its log-probability over its length to this power.
        samples: Continuations per prompt; of a beam search, the best.
        stop: Text at which a continuation ends.
        slide: Generate beyond the context, each token from the last n_ctx tokens.
        judge: Run with weights under which the texts are judged, in bits per byte. Without a
            prompt, models continue held-out text and are compared with the people who wrote it.
        allow_code: Allow a model family of the runs to run code from this Python file.
        device: Device to compute on: auto (a GPU if there is one), cpu or cuda.
    """
    texts = [*prompt, *(_lines(prompts) if prompts else ())]
    if not texts and judge is None:
        raise ConfigError(
            '`scaling generate` needs a prompt, such as --prompt "The king"; an empty one starts '
            "a new text."
        )
    settings: Record = {
        "max_tokens": max_tokens, "min_tokens": min_tokens, "temperature": temperature,
        "top_k": top_k, "top_p": top_p, "beams": beams, "length_penalty": length_penalty,
        "samples": samples, "seed": seed, "slide": slide,
    }  # fmt: skip
    require("torch", "safetensors")
    folders, results = folders_of(run)
    judge_folder = None if judge is None else folder_of(judge)
    progress.step("loading PyTorch")
    from scaling import weights
    from scaling.generate import Decoding

    Decoding(**settings)  # refuses wrong values before anything is read
    allow(allow_code)
    judging = None if judge_folder is None else weights.load(judge_folder, device)
    writers = (weights.load(folder, device) for folder in folders)
    settings["stop"] = list(stop)
    if not texts and judging is not None:
        _judge(writers, judging, settings, len(folders), json)
        return
    records: list[Record] = []
    for k, writer in enumerate(writers):
        progress.step(f"writing with run {k + 1} of {len(folders)}")
        records += _records(writer, texts, settings, judging)
    records.sort(key=lambda each: (texts.index(each["prompt"]), each["N"] or 0))
    settings["judge"] = judging.run.run_id if judging else None
    _print(records, settings, json)
    if results is not None:
        from scaling.samples import write

        note(f"wrote {write(results, settings, records)}; `scaling report {results}` shows it")


def _lines(file: Path) -> list[str]:
    """Return the prompts in a file. Raises ConfigError if it has none."""
    try:
        lines = [line for line in read_text(file).split("\n") if line.strip()]
    except EncodingError as error:
        raise ConfigError(f"--prompts {file} is {error}.") from None
    if not lines:
        raise ConfigError(f"--prompts {file} has no prompts; write one per line.")
    return lines


def _of(writer: Weights) -> Record:
    """Return what identifies a run in a list."""
    return {"run_id": writer.run.run_id} | {name: writer.row.get(name) for name in ("N", "D", "L")}


def _records(
    writer: Weights, texts: Sequence[str], settings: Record, judging: Weights | None
) -> list[Record]:
    """Return what a model wrote after each prompt, as plain values."""
    from scaling.generate import bits_per_byte, generate, repeated

    written = generate(writer, texts, **settings)
    flat = [(text, each) for text, own in zip(texts, written, strict=True) for each in own]
    judged: Sequence[float | None] = [None] * len(flat)
    if judging is not None:
        judged = bits_per_byte(judging, [each.text for _, each in flat], [text for text, _ in flat])
    return [
        _of(writer)
        | {
            "prompt": text,
            "text": each.text,
            "tokens": len(each.tokens),
            "ended": each.ended,
            "logprob": each.logprob,
            "score": each.score,
            "repeated": repeated(each.tokens),
            "bits_per_byte": bits,
        }
        for (text, each), bits in zip(flat, judged, strict=True)
    ]


def _print(records: list[Record], settings: Record, json: bool) -> None:
    if json:
        show_json({"settings": settings, "samples": records})
    else:
        show(*_lines_of(records))


def _lines_of(records: Sequence[Record]) -> Iterator[str]:
    """Yield samples as text: the prompt in brackets before each."""
    before = None
    for each in records:
        if each["run_id"] != before:
            before = each["run_id"]
            yield f"run {before}{_sizes(each)}"
        yield f"[{each['prompt']}]{each['text']}"
        if each["bits_per_byte"] is not None:
            yield (
                f"  judged: {each['bits_per_byte']:.3f} bits/byte; repeated 4-grams: "
                f"{each['repeated']:.0%}"
            )
        yield ""


def _sizes(each: Record) -> str:
    known = [f"{name} = {count(each[name])}" for name in ("N", "D") if each[name] is not None]
    known += [f"L = {each['L']:.3f}"] if each["L"] is not None else []
    return f" ({', '.join(known)})" if known else ""


def _judge(
    writers: Iterator[Weights], judging: Weights, settings: Record, runs: int, json: bool
) -> None:
    """Print how models that continue held-out text compare with people under a judge."""
    from scaling.generate import judged

    tokens = settings.pop("max_tokens")
    settings.pop("min_tokens")
    settings.pop("samples")
    chosen = {} if tokens is None else {"tokens": tokens}
    found: list[tuple[Record, Judged]] = []
    for k, writer in enumerate(writers):
        progress.step(f"judging run {k + 1} of {runs}")
        found.append((_of(writer), judged(writer, judging, **chosen, **settings)))
    found.sort(key=lambda each: each[0]["N"] or 0)
    if json:
        records = [own | vars(each) for own, each in found]
        show_json({"settings": settings, "judge": _of(judging), "judged": records})
        return
    header = f"{'run':<12}  {'N':>7}  {'L':>6}  {'bits/byte':>9}  {'human':>6}  "
    show(f"{header}{'difference':>15}  repeated 4-grams (human)")
    for own, each in found:
        N = "" if own["N"] is None else count(own["N"])
        L = "" if own["L"] is None else f"{own['L']:.3f}"
        show(
            f"{own['run_id']:<12}  {N:>7}  {L:>6}  {each.bits_per_byte:9.3f}  {each.human:6.3f}  "
            f"{f'{each.difference:+.3f} ± {each.stderr:.3f}':>15}  {each.repeated:.1%} "
            f"({each.repeated_human:.1%})"
        )
