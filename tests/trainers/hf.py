"""Train a small Llama on the bytes of a text with the Trainer of transformers.

python hf.py --text shakespeare.txt --layers 2 --hidden 64 --steps 500 --output out
"""

import argparse
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint


class Windows(torch.utils.data.Dataset):
    """Consecutive windows of a text, as inputs and labels."""

    def __init__(self, text, length):
        tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
        self.windows = tokens[: len(tokens) // length * length].view(-1, length)

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, i):
        return {"input_ids": self.windows[i], "labels": self.windows[i]}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--text", required=True, type=Path)
    p.add_argument("--layers", type=int, default=2)
    p.add_argument("--hidden", type=int, default=64)
    p.add_argument("--heads", type=int, default=2)
    p.add_argument("--context", type=int, default=64)
    p.add_argument("--batch-size", type=int, default=8)
    p.add_argument("--steps", type=int, default=500)
    p.add_argument("--learning-rate", type=float, default=3e-3)
    p.add_argument("--eval-steps", type=int, default=100)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--report-to", default="none", help="such as tensorboard")
    p.add_argument("--output", required=True)
    p.add_argument("--count-only", action="store_true", help="print the size and stop")
    o = p.parse_args()
    torch.manual_seed(o.seed)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=o.hidden,
        intermediate_size=3 * o.hidden,
        num_hidden_layers=o.layers,
        num_attention_heads=o.heads,
        max_position_embeddings=o.context,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    size = model.num_parameters() - sum(e.weight.numel() for e in embeddings)
    if o.count_only:
        print(size)
        return
    text = o.text.read_bytes()
    cut = len(text) * 9 // 10
    arguments = TrainingArguments(
        output_dir=o.output,
        max_steps=o.steps,
        per_device_train_batch_size=o.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=o.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, o.steps // 20),
        adam_beta2=0.95,
        weight_decay=0.1,
        logging_steps=o.eval_steps,
        eval_strategy="steps",
        eval_steps=o.eval_steps,
        save_steps=o.eval_steps,
        save_total_limit=1,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        seed=o.seed,
        report_to=o.report_to,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Windows(text[:cut], o.context),
        eval_dataset=Windows(text[cut:], o.context),
    )
    last = get_last_checkpoint(o.output) if Path(o.output).is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    trainer.save_state()  # trainer_state.json, with everything that was logged


if __name__ == "__main__":
    main()
