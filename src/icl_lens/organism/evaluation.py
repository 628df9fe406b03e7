"""What the model can do, measured on texts it was not trained on: ``python -m icl_lens.organism.evaluation [FOLDER]``.

Every measure is taken on prompts in the paper's format, one demonstration per class unless said otherwise, queries in
equal numbers per class, so that accuracy is balanced accuracy. A prediction is the class whose label word has the
largest logit, as in the paper. Shapes: B prompts, K classes, D = shots * K demonstrations.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812 - the name used throughout the field
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from icl_lens.corpora.builtin import generate
from icl_lens.organism import CHECKPOINT
from icl_lens.organism.episodes import Templates, assemble
from icl_lens.organism.topics import PAD, Topic, TopicBank
from icl_lens.organism.vocabulary import LABEL_WORDS, template_pieces
from icl_lens.tasks import TASKS


@dataclass(frozen=True)
class Measure:
    """One row of the model card's table.

    Attributes:
        measure: What is measured.
        on: The task, or the kind of topics.
        classes: Classes in a prompt.
        shots: Demonstrations per class.
        prompts: Number of prompts.
        chance: What guessing gets.
        model: The model's accuracy.
        top_token: How often the right label word is the most probable of all tokens.
        bag_of_words: Accuracy of the vote by the words that the query shares with the demonstrations, if any.
    """

    measure: str
    on: str
    classes: int
    shots: int
    prompts: int
    chance: float
    model: float
    top_token: float
    bag_of_words: float | None


@dataclass
class Prompts:
    """Prompts before their template: D demonstrations, then the query.

    Attributes:
        text: ``(B, D + 1, L)`` token ids, right-padded.
        text_length: ``(B, D + 1)``.
        classes: ``(B, D + 1)`` index of each text's class in the prompt; the last is the query's, the gold.
        class_labels: ``(B, K)`` label token of each class.
        template: ``(B,)``.
        gold: ``(B,)`` the class whose label word counts as right.
    """

    text: torch.Tensor
    text_length: torch.Tensor
    classes: torch.Tensor
    class_labels: torch.Tensor
    template: torch.Tensor
    gold: torch.Tensor

    def without_demonstrations(self) -> Prompts:
        """The queries alone."""
        return replace(self, text=self.text[:, -1:], text_length=self.text_length[:, -1:], classes=self.classes[:, -1:])

    def swapped(self) -> Prompts:
        """Every class takes the next one's label word; right is the word that the query's class now has."""
        return replace(self, class_labels=self.class_labels.roll(1, dims=1))

    def chunks(self, size: int) -> Iterator[Prompts]:
        """The prompts in parts of at most ``size``."""
        for start in range(0, len(self.text), size):
            yield Prompts(**{name: value[start : start + size] for name, value in vars(self).items()})


def draw_prompts(
    demos: TopicBank,
    queries: TopicBank,
    topics: Sequence[int],
    *,
    classes: int,
    shots: int,
    number: int,
    label_pool: torch.Tensor | None,
    class_words: torch.Tensor | None,
    templates: Sequence[int],
    generator: torch.Generator,
) -> Prompts:
    """Prompts about ``classes`` of ``topics``; demonstrations in random order, no text twice in a prompt.

    Args:
        demos: Where demonstrations come from.
        queries: Where queries come from; may be the same bank.
        topics: The topics to choose from, as indices into both banks.
        classes: K.
        shots: Demonstrations per class.
        number: B.
        label_pool: Label words are drawn from it anew for every prompt; or
        class_words: ``(len(topics),)`` the label token of each topic.
        templates: The templates to choose from.
        generator: Of all draws.
    """

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    choice = rand(number, len(topics)).argsort(1)[:, :classes]  # (B, K)
    topic = torch.tensor(topics)[choice]  # (B, K)
    if label_pool is not None:
        class_labels = label_pool[rand(number, len(label_pool)).argsort(1)[:, :classes]]  # (B, K)
    else:
        class_labels = class_words[choice]  # (B, K)
    order = rand(number, classes * shots).argsort(1) % classes  # (B, D)
    gold = torch.arange(number) % classes  # (B,)
    place = torch.arange(classes * shots + 1)
    wanted = torch.cat([order, gold[:, None]], dim=1)  # (B, D + 1)

    text, length = [], []
    rows = torch.zeros(number, classes * shots + 1, dtype=torch.long)  # (B, D + 1)
    for i in place.tolist():
        bank = queries if i == classes * shots else demos
        of = topic.gather(1, wanted[:, i : i + 1]).squeeze(1)  # (B,)
        # Distinct demonstrations by drawing again what was drawn before; a query of another bank cannot collide.
        row = bank.text_start[of] + (rand(number) * bank.text_count[of]).long()  # (B,)
        if bank is demos:
            while (again := (rows[:, :i] == row[:, None]).any(1)).any():
                row = torch.where(again, bank.text_start[of] + (rand(number) * bank.text_count[of]).long(), row)
        rows[:, i] = row
        text.append(bank.texts[row])
        length.append(bank.text_length[row])
    width = max(t.shape[1] for t in text)
    return Prompts(
        text=torch.stack([F.pad(t, (0, width - t.shape[1]), value=PAD) for t in text], dim=1),
        text_length=torch.stack(length, dim=1),
        classes=wanted,
        class_labels=class_labels,
        template=torch.tensor(templates)[(rand(number) * len(templates)).long()],
        gold=gold,
    )


@torch.no_grad()
def class_predictions(
    model: PreTrainedModel, templates: Templates, prompts: Prompts, *, batch: int = 50
) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted class ``(B,)`` and the most probable token ``(B,)``."""
    classes, tokens = [], []
    for part in prompts.chunks(batch):
        label_ids = part.class_labels.gather(1, part.classes)  # (B, D + 1)
        input_ids, _, label_position = assemble(templates, part.template, part.text, part.text_length, label_ids)
        hidden = model.model(input_ids=input_ids, use_cache=False).last_hidden_state  # (B, T, W)
        # The query's own label stands after the position that is read, so it cannot be seen.
        logits = model.lm_head(hidden[torch.arange(len(hidden)), label_position[:, -1] - 1])  # (B, V)
        classes.append(logits.gather(1, part.class_labels).argmax(1))
        tokens.append(logits.argmax(1))
    return torch.cat(classes), torch.cat(tokens)


def bag_of_words_credit(prompts: Prompts, *, batch: int = 50) -> torch.Tensor:
    """For each prompt ``(B,)`` the credit of the vote by shared words: 1 if right, shared equally among ties.

    A demonstration's score is the number of the query's distinct tokens that it has; a class has the sum of its scores.
    """
    credit = []
    for part in prompts.chunks(batch):
        query = part.text[:, -1]  # (B, L)
        first = (query[:, :, None] == query[:, None, :]).tril(-1).any(2).logical_not() & (query != PAD)  # (B, L)
        found = (part.text[:, :-1, :, None] == query[:, None, None, :]).any(2)  # (B, D, L)
        score = (found & first[:, None]).sum(2).float()  # (B, D)
        votes = torch.zeros(part.class_labels.shape).scatter_add(1, part.classes[:, :-1], score)  # (B, K)
        best = votes == votes.max(1, keepdim=True).values  # (B, K)
        credit.append(best.gather(1, part.gold[:, None]).squeeze(1) / best.sum(1))
    return torch.cat(credit)


class Evaluation:
    """The measures of one model.

    Args:
        model: In evaluation mode, in float32.
        tokenizer: Its tokenizer.
        corpora: The table of each task's texts, as the built-in generator makes it.
        prompts: Prompts in each cell.
        seed: Of the prompts.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        corpora: Mapping[str, pd.DataFrame],
        prompts: int = 1000,
        seed: int = 1,
    ) -> None:
        self.model = model
        self.prompts = prompts
        self.generator = torch.Generator().manual_seed(seed)
        self.encode: Callable[[str], list[int]] = lambda text: tokenizer(text).input_ids
        self.templates = Templates.build(template_pieces(), self.encode)
        self.label_pool = torch.tensor([self.encode(word)[0] for word in LABEL_WORDS])  # (P,)
        self.train, self.test = (self._bank(corpora, split) for split in ("train", "test"))
        self.vocabulary = len(tokenizer)

    def _bank(self, corpora: Mapping[str, pd.DataFrame], split: str) -> TopicBank:
        topics = []
        for name, task in TASKS.items():
            table = corpora[name][corpora[name]["split"] == split]
            for label in range(len(task.label_words)):
                texts = table.loc[table["label"] == label, "text"].tolist()
                topics.append(Topic(f"{name}/{label}", name, [task.label_words[label]], texts))
        return TopicBank.build(topics, [], self.encode)

    def _topics(self, task: str) -> list[int]:
        return [i for i, name in enumerate(self.test.names) if name.startswith(f"{task}/")]

    def measure(self, measure: str, on: str, shots: int, prompts: Prompts, *, baseline: bool = True) -> Measure:
        """One row: the model, and the vote by shared words unless ``baseline`` is off (no demonstrations, no vote)."""
        predicted, token = class_predictions(self.model, self.templates, prompts)
        right = prompts.class_labels.gather(1, prompts.gold[:, None]).squeeze(1)  # (B,)
        classes = prompts.class_labels.shape[1]
        return Measure(
            measure=measure,
            on=on,
            classes=classes,
            shots=shots,
            prompts=len(predicted),
            chance=round(1 / classes, 4),
            model=round((predicted == prompts.gold).float().mean().item(), 4),
            top_token=round((token == right).float().mean().item(), 4),
            bag_of_words=round(bag_of_words_credit(prompts).mean().item(), 4) if baseline else None,
        )

    def fresh_labels(self, classes: int, shots: int) -> Prompts:
        """Held-out texts, label words drawn anew: prompts of every task that has enough classes, in equal numbers."""
        tasks = [task for task in TASKS if len(self._topics(task)) >= classes]
        parts = [
            draw_prompts(
                self.test,
                self.test,
                self._topics(task),
                classes=classes,
                shots=shots,
                number=math.ceil(self.prompts / len(tasks)),
                label_pool=self.label_pool,
                class_words=None,
                templates=range(len(TASKS)),
                generator=self.generator,
            )
            for task in tasks
        ]
        width = max(part.text.shape[-1] for part in parts)
        parts = [replace(part, text=F.pad(part.text, (0, width - part.text.shape[-1]), value=PAD)) for part in parts]
        return Prompts(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})

    def paper_task(self, task: str, shots: int) -> Prompts:
        """A built-in task as the paper sets it: its own template and label words, training texts as demonstrations."""
        topics = self._topics(task)
        return draw_prompts(
            self.train,
            self.test,
            topics,
            classes=len(topics),
            shots=shots,
            number=self.prompts,
            label_pool=None,
            class_words=self.test.lexicon[topics, 0],
            templates=[list(TASKS).index(task)],
            generator=self.generator,
        )

    def table(self) -> list[Measure]:
        """All rows."""
        rows = []
        for classes in (2, 4, 6):
            for shots in (1, 2, 4):
                prompts = self.fresh_labels(classes, shots)
                rows.append(self.measure("fresh label words", "held-out texts", shots, prompts))
                if shots == 1:
                    rows.append(
                        self.measure(
                            "fresh label words, no demonstrations",
                            "held-out texts",
                            0,
                            prompts.without_demonstrations(),
                            baseline=False,
                        )
                    )
                    rows.append(self.measure("fresh label words, swapped", "held-out texts", 1, prompts.swapped()))
        for task in TASKS:
            prompts = self.paper_task(task, 1)
            rows.append(self.measure("paper's label words", task, 1, prompts))
            alone = prompts.without_demonstrations()
            rows.append(self.measure("paper's label words, no demonstrations", task, 0, alone, baseline=False))
            rows.append(self.measure("paper's label words, swapped", task, 1, prompts.swapped()))
        return rows

    @torch.no_grad()
    def text_loss(self, *, number: int = 64) -> dict[str, float]:
        """Next-token loss on test texts in one-shot prompts, over all tokens, beside the loss of a uniform guess."""
        total, count = 0.0, 0
        for task in TASKS:
            part = next(self.paper_task(task, 1).chunks(number))
            label_ids = part.class_labels.gather(1, part.classes)  # (B, D + 1)
            input_ids, length, _ = assemble(self.templates, part.template, part.text, part.text_length, label_ids)
            logits = self.model(input_ids=input_ids, use_cache=False).logits[:, :-1]  # (B, T - 1, V)
            inside = torch.arange(1, input_ids.shape[1]) < length[:, None]  # (B, T - 1)
            total += F.cross_entropy(logits[inside], input_ids[:, 1:][inside], reduction="sum").item()
            count += int(inside.sum())
        return {"model": round(total / count, 4), "uniform": round(math.log(self.vocabulary), 4)}


def evaluate(folder: Path, *, corpus_seed: int = 0, prompts: int = 1000) -> dict:
    """The model card's measures of the checkpoint in ``folder``."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    corpora = {task: generate(task, corpus_seed) for task in TASKS}
    evaluation = Evaluation(model, tokenizer, corpora=corpora, prompts=prompts)
    return {"accuracy": [asdict(row) for row in evaluation.table()], "text_loss": evaluation.text_loss()}


def main() -> None:
    """The command line: prints the table."""
    parser = argparse.ArgumentParser(description="Measure the embedded model.")
    parser.add_argument("folder", type=Path, nargs="?", default=CHECKPOINT)
    parser.add_argument("--prompts", type=int, default=1000, help="prompts in each cell")
    arguments = parser.parse_args()
    result = evaluate(arguments.folder, prompts=arguments.prompts)
    for row in result["accuracy"]:
        print(" ".join(f"{name}={value}" for name, value in row.items()))
    print(json.dumps(result["text_loss"]))


if __name__ == "__main__":
    main()
