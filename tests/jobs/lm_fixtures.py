"""A tiny real language model: a random Llama with a byte-level BPE tokenizer and a chat template.

Read with `runpy.run_path`, as plain modules beside tests are.
"""

from __future__ import annotations

import random
from pathlib import Path

WORDS = "what is the a red old bridge river tower song near my where do you like castle yes no it was built in stone"
# SmolLM2's own: a default system prompt where the conversation has none.
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}{{ message['content'] + '<|im_end|>' }}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def conversations(count: int, *, seed: int = 0, turns: int = 3) -> list[list[dict[str, str]]]:
    """Distinct conversations of 1 to `turns` questions and answers."""
    rng = random.Random(seed)
    words = WORDS.split()
    made = []
    for number in range(count):
        messages = []
        for _ in range(rng.randint(1, turns)):
            messages.append({"role": "user", "content": " ".join(rng.choices(words, k=rng.randint(2, 9))) + "?"})
            messages.append({"role": "assistant", "content": " ".join(rng.choices(words, k=rng.randint(1, 12)))})
        messages[0]["content"] += f" {seed}.{number}"
        made.append(messages)
    return made


def tiny_tokenizer(folder: Path, *, template: str | None = CHATML) -> None:
    """A byte-level BPE of about 320 pieces, learned from the words above."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS, "system user assistant You are a helpful"], trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    wrapped.chat_template = template
    wrapped.save_pretrained(folder)


def tiny_lm(folder: Path, *, layers: int = 2, template: str | None = CHATML, context: int = 256, seed: int = 0) -> Path:
    """Writes the model and its tokenizer; weights spread enough for answers that differ from row to row."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer(folder, template=template)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
