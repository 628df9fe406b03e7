"""Shared fixtures: tokenizers and tiny models created on the fly, and the real data if available."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from icl_lens.models.language_model import LanguageModel
from icl_lens.tasks.own import VARIANTS
from icl_lens.tasks.task import TASKS

from .families import tiny

os.environ["HF_HUB_OFFLINE"] = "1"  # tests must not access the Hub
torch.set_num_threads(1)  # the models are tiny: more threads are slower, especially on a busy machine

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

TEXTS = [
    "a fine film , warm and clever",
    "dull , slow and empty",
    "How many moons has Mars ?",
    "What is a quark ?",
    "Stocks fall after a poor report",
    "the striker scored twice in Rome",
    "i lost my keys again",
    "that is so funny",
]


def corpus_of_prompts() -> list[str]:
    """Return texts that contain each template and each label word."""
    tasks = [*TASKS.values(), *(variant.task(name, TASKS) for name, variant in VARIANTS.items())]
    return [task.template.format(text=text, label=label) for task in tasks for label in task.label_words for text in TEXTS]


def byte_level(trim_offsets: bool = False, vocabulary: int = 1200, **special: str) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer like that of GPT-2."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(corpus_of_prompts(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def sentencepiece_like(bos: bool = True) -> PreTrainedTokenizerFast:
    """Train a BPE tokenizer like that of Llama: words include their leading space as "▁", and it has a BOS token."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern="\n", behavior="isolated"),
            pre_tokenizers.Split(pattern=":", behavior="isolated"),
            pre_tokenizers.Split(pattern="▁", behavior="merged_with_next"),
        ]
    )
    core.decoder = decoders.Replace("▁", " ")
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", "<s>"], show_progress=False)
    core.train_from_iterator(corpus_of_prompts(), trainer)
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", unk_token="<unk>")


def llama_like(metaspace: bool = False) -> PreTrainedTokenizerFast:
    """Train a BPE tokenizer with the structure of Llama's tokenizer.json.

    It prepends a space to the text and encodes characters outside its vocabulary, including newlines, as bytes.

    Args:
        metaspace: Whether a pre-tokenizer adds the spaces, as in newer files, instead of the normalizer.
    """
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace("\n", " ")
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Split(pattern=":", behavior="isolated")]
    )
    learner.train_from_iterator(corpus_of_prompts(), trainers.BpeTrainer(vocab_size=700, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    beginning = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces = [*beginning, *sorted(learned["vocab"], key=learned["vocab"].get)]
    core = Tokenizer(
        models.BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=[tuple(pair) for pair in learned["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    if metaspace:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def word_level() -> PreTrainedTokenizerFast:
    """Train a tokenizer with one token per word or punctuation mark; it drops spaces and newlines."""
    core = Tokenizer(models.WordLevel(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.train_from_iterator(corpus_of_prompts(), trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_level()


@pytest.fixture
def language_model(tokenizer):
    """Return a function that creates a tiny random model of a given family."""

    def make(family: str, **options) -> LanguageModel:
        network = tiny(family, len(tokenizer), **options)
        facts = {"name": family, "family": family}
        return LanguageModel(name=family, network=network, tokenizer=tokenizer, dtype="float32", facts=facts)

    return make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tokenizer) -> Path:
    """Return a folder with a tiny random GPT-2 and its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny("gpt2", len(tokenizer), context=4096).save_pretrained(folder)  # real text is long in tokens of this tokenizer
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data sets; skip the test if it is not available."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data sets are not at hand ({SHARED_DATA.name} is not beside the repository)")
    return SHARED_DATA
