"""Inputs of the reference items: the prompts files of a run, their tokens, and models as transformers loads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import pyarrow.parquet
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@cache
def load(folder: str):
    """Return the model of a folder, in float32, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder)


@dataclass
class Prompt:
    """A row of a prompts table and its tokens.

    Attributes:
        row: The row.
        ids: Token ids.
        offsets: [start, end) characters of each token.
        anchors: Position of the first token of each demonstration's label word.
        label_ids: Id of the token that stands for each class.
        first_text_token: Number of tokens that the model reads before the text, such as the BOS token.
    """

    row: dict
    ids: list[int]
    offsets: list[tuple[int, int]]
    anchors: list[int] = field(default_factory=list)
    label_ids: list[int] = field(default_factory=list)
    first_text_token: int = 0

    def __getitem__(self, column: str):
        return self.row[column]

    @property
    def last(self) -> int:
        """Position that predicts the label."""
        return len(self.ids) - 1

    def query_start(self) -> int:
        """Position of the query's first token, after the newline that ends the last demonstration."""
        end = self["label_spans"][-1][1]
        if self["text"][end] == "\n":
            end += 1
        return next(place for place, (_, stop) in enumerate(self.offsets) if stop > end)


def tokenized(row: dict, tokenizer) -> Prompt:
    """Tokenize a row, and find the first token of each label word."""
    encoded = tokenizer(row["text"], return_offsets_mapping=True)
    prompt = Prompt(row, list(encoded["input_ids"]), [tuple(span) for span in encoded["offset_mapping"]])
    while prompt.offsets[prompt.first_text_token][1] == 0:
        prompt.first_text_token += 1
    for start, end in row.get("label_spans", ()):
        prompt.anchors.append(next(place for place, (_, stop) in enumerate(prompt.offsets) if start < stop <= end))
    for word in row.get("label_words", ()):
        longer = tokenizer(row["text"] + word, return_offsets_mapping=True)
        after = [
            i for i, (_, stop) in zip(longer["input_ids"], longer["offset_mapping"], strict=True) if stop > len(row["text"])
        ]
        prompt.label_ids.append(after[0])
    return prompt


@dataclass
class Run:
    """A run of the workflow with one model.

    Attributes:
        results: Folder of the results.
        config: Its configuration, with each setting that an item depends on.
        model: Name of the model.
        folder: Folder of the model.
        readers: Name and folder of the model of ``representation_change``.
    """

    results: Path
    config: dict
    model: str
    folder: str
    readers: tuple[str, str]
    kept: dict = field(default_factory=dict)

    @cached_property
    def tasks(self) -> list[str]:
        """Names of the tasks, in order."""
        return self.config["tasks"]

    @property
    def network(self):
        """The model."""
        return load(self.folder)[0]

    @property
    def tokenizer(self):
        """The model's tokenizer."""
        return load(self.folder)[1]

    @property
    def layers(self) -> int:
        """Number of the model's layers, L."""
        return self.network.config.num_hidden_layers

    @property
    def heads(self) -> int:
        """Number of the model's heads per layer, H."""
        return self.network.config.num_attention_heads

    def settings(self, study: str) -> dict:
        """Return the settings of a study."""
        return self.config["studies"][study]

    def rows(self, task: str, name: str) -> list[dict]:
        """Return the rows of a prompts file, ordered by prompt_id."""
        table = pyarrow.parquet.read_table(self.results / "prompts" / task / f"{name}.parquet")
        return sorted(table.to_pylist(), key=lambda row: row["prompt_id"])

    def prompts(self, task: str, name: str) -> list[Prompt]:
        """Return the prompts of a task and prompt set, tokenized for the model."""
        return self.once(("prompts", task, name), lambda: [tokenized(row, self.tokenizer) for row in self.rows(task, name)])

    def once(self, key, compute):
        """Return ``compute()``, computed only the first time for a key."""
        if key not in self.kept:
            self.kept[key] = compute()
        return self.kept[key]

    def logits(self, prompt: Prompt) -> torch.Tensor:
        """Compute the next-token logits of a prompt, shape (V,), without a cache."""
        return next_token_logits(self.network, prompt.ids)


def next_token_logits(model, ids) -> torch.Tensor:
    """Compute the logits at the last position, shape (V,)."""
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]


def answer(logits: torch.Tensor, label_ids) -> int:
    """Return the class whose token has the largest logit; the first one in a tie."""
    values = [float(logits[i]) for i in label_ids]
    return values.index(max(values))


def top(logits: torch.Tensor, count: int) -> set[int]:
    """Return the ids of the tokens with the largest logits."""
    return set(torch.argsort(logits, descending=True, stable=True)[:count].tolist())
