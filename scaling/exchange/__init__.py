"""Exchange of models with other tools: Hugging Face's transformers and lm-evaluation-harness."""
