"""Small tokenizers of the kinds that language models have."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = (
    "user assistant system Hi there Hello! Be kind. More",
    "<|user|>\n",
    "<|assistant|>\n",
    "<|system|>\n",
)


def _saved(
    tokenizer: Tokenizer, folder: Path, alphabet: list[str], special: tuple[str, ...], **names: str
) -> str:
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return str(folder)


def byte_level(folder: Path, special: tuple[str, ...], **names: str) -> str:
    """As Llama 3 and Qwen have: pieces of bytes. `names` are bos and eos."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {f"{name}_token": token for name, token in names.items()}
    return _saved(tokenizer, folder, pre_tokenizers.ByteLevel.alphabet(), special, **names)


def prefix_space(folder: Path) -> str:
    """As Mistral and Zephyr have: SentencePiece, with a space before every text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    prepend = normalizers.Prepend("\u2581")
    tokenizer.normalizer = normalizers.Sequence([prepend, normalizers.Replace(" ", "\u2581")])
    parts = [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    alphabet = [chr(code) for code in range(32, 127)] + ["\n", "\u2581"]
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _saved(tokenizer, folder, alphabet, ("<unk>", "<s>", "</s>"), **names)
