"""Small random rerankers beside monoT5, made on the spot and once in a session."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tests.models import WORDS, folder

#: How Qwen's tokenizers split a text before BPE.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_PROMPT = """
Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can
only be "yes" or "no". system user assistant Instruct Query Document Given a web search query, retrieve relevant passages
"""


def _saved(model: Any, tokenizer: Any, name: str) -> str:
    path = folder() / name
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@cache
def bpe(merges: bool = True) -> Any:
    """A byte-level BPE as Qwen's is: NFC, its split, its marks. Without ``merges`` it knows bytes, and no words."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700 if merges else 0,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=_MARKS,
    )
    texts = [*[WORDS + _PROMPT] * 20, "yes\nno\n" * 50, "?\n:\n.\n\n?\n\n" * 90]
    made.train_from_iterator(texts, trainer)
    made.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>")


@cache
def metaspace() -> Any:
    """A unigram as Llama 2's and Gemma's tokenizers are: one text, its first word with a space in front."""
    import string

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*dict.fromkeys(WORDS.split()), "yes", "no", "Is", "it?"]
    vocabulary = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -8.0)]
    vocabulary += [(f"▁{word}", -1.0) for word in words] + [(word, -2.0) for word in words if len(word) > 1]
    vocabulary += [(each, -20.0) for each in string.printable if each == "\n" or (not each.isspace() and each != "a")]
    made = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


@cache
def causal(kind: str = "qwen3", seed: int = 0, merges: bool = True) -> str:
    """Folder of a random causal reranker.

    ``kind``: qwen3 (tied, as the 0.6B is), llama (untied), gemma2 (caps its logits, and every other layer sees a short
    window only), gpt2 (positions learnt), metaspace (a Llama with that tokenizer).
    """
    import torch
    import transformers

    tokenizer = metaspace() if kind == "metaspace" else bpe(merges)
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "head_dim": 12, "vocab_size": len(tokenizer), "initializer_range": 0.2}
    shape |= {"max_position_embeddings": 1024, "pad_token_id": tokenizer.pad_token_id}
    make = {
        "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape, tie_word_embeddings=True)),
        "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, tie_word_embeddings=False)),
        "gemma2": lambda: transformers.Gemma2ForCausalLM(
            transformers.Gemma2Config(**shape, query_pre_attn_scalar=12, sliding_window=32, final_logit_softcapping=3.0)
        ),
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=len(tokenizer), n_embd=48, n_layer=2, n_head=4, n_positions=1024, initializer_range=0.2
            )
        ),
    }["llama" if kind == "metaspace" else kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _saved(make(), tokenizer, f"{kind}-{seed}-{merges}")


@cache
def wordpiece() -> Any:
    """A BertTokenizer of whole words and letters."""
    import string

    from transformers import BertTokenizer

    letters = [each for each in string.printable.lower() if not each.isspace()]
    words = [word.lower().strip(":") for word in WORDS.split()]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters, *(f"##{each}" for each in letters)]
    return BertTokenizer(vocab={each: i for i, each in enumerate(dict.fromkeys(vocabulary))}, model_max_length=512)


@cache
def unigram() -> Any:
    """An XLM-R tokenizer, which writes ``<s> query </s></s> document </s>``."""
    import string

    from transformers import XLMRobertaTokenizer

    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -20.0)]
    vocabulary += [(f"▁{word}", -1.0) for word in dict.fromkeys(WORDS.split())]
    vocabulary += [(each, -20.0) for each in string.printable if not each.isspace()]
    return XLMRobertaTokenizer(vocab=[*vocabulary, ("<mask>", 0.0)], model_max_length=512)


@cache
def encoder(kind: str = "bert", labels: int = 1, seed: int = 0, tokenizer: Path | None = None) -> str:
    """Folder of a random cross-encoder; ``kind``: bert (token types), roberta (positions behind the padding's id)."""
    import torch
    import transformers

    made = {"bert": wordpiece, "roberta": unigram}[kind]()
    read = type(made).from_pretrained(tokenizer) if tokenizer else made
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {
        "vocab_size": len(read),
        "num_labels": labels,
        "initializer_range": 0.2,
        "pad_token_id": read.pad_token_id,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "bert":
            model = transformers.BertForSequenceClassification(transformers.BertConfig(**shape))
        else:
            shape |= {"max_position_embeddings": 514, "type_vocab_size": 1}
            model = transformers.XLMRobertaForSequenceClassification(transformers.XLMRobertaConfig(**shape))
        return _saved(model, read, f"{kind}-{labels}-{seed}-{len(read)}")
