"""Evaluation of a trained model on texts that it was not trained on: ``icl-lens evaluation``.

All prompts are in the paper's format, with the same number of queries per class. Accuracy is therefore balanced accuracy, and a
constant prediction reaches the chance level. The predicted class is the class with the largest logit of its label word, as in
the paper. Shapes: B prompts, K classes, D = shots * K demonstrations.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812 - the name used throughout the field
from torch import Tensor
from transformers import PreTrainedModel

from icl_lens.artifacts import hashes, parquet, provenance
from icl_lens.errors import InputError
from icl_lens.hub.checkpoints import checkpoint_files
from icl_lens.models import loading
from icl_lens.organism.episodes import EpisodeSampler, Templates, assemble, prompt_lengths
from icl_lens.organism.material import MADE_UP, PLAIN_TEXT, Material, content_hash
from icl_lens.organism.recipe import Difficulty, Recipe
from icl_lens.organism.schema import EVALUATION
from icl_lens.organism.topics import PAD, Topic, TopicBank, training_texts
from icl_lens.organism.training import checkpoint_step, read_corpora, read_facts
from icl_lens.tasks.task import TASKS

logger = logging.getLogger(__name__)

SHOTS = (1, 2, 4)
CLASSES = (2, 4, 6)
# Made-up topics have no corpus, so their texts are generated: 3 to 5 topical words and up to 10 fillers, and MADE_UP_TEXTS
# texts per topic.
MADE_UP_TEXT = Difficulty(words=10**6, topical=5, fillers=10, corpus=0.0, noise=0.0)
MADE_UP_TEXTS = 50
# Random seed of the evaluation prompts.
SEED = 1
# Maximum number of tokens in one forward pass, including padding.
BATCH_TOKENS = 16384


@dataclass(frozen=True)
class Measure:
    """One row of the model card's table.

    Attributes:
        measure: Name of the measure.
        on: The task, or the kind of topics.
        classes: Number of classes in a prompt.
        shots: Number of demonstrations per class.
        prompts: Number of prompts.
        chance: Chance level.
        model: Accuracy of the model.
        top_token: Share of prompts for which the correct label word is the most probable of all tokens.
        bag_of_words: Accuracy of a bag-of-words baseline: the demonstrations vote by the words that they share with the query.
    """

    measure: str
    on: str
    classes: int
    shots: int
    prompts: int
    chance: float
    model: float
    top_token: float
    bag_of_words: float

    @property
    def standard_error(self) -> float:
        """Standard error of the accuracy of random guessing."""
        return math.sqrt(self.chance * (1 - self.chance) / self.prompts)


@dataclass
class Prompts:
    """Prompts before the template is applied: D demonstrations, followed by the query.

    Attributes:
        text: Token ids, right-padded, shape (B, D + 1, L).
        text_length: Number of tokens of each text, shape (B, D + 1).
        classes: Index of each text's class in the prompt, shape (B, D + 1). The last one is the class of the query.
        class_labels: Label token of each class, shape (B, K).
        template: Index of each prompt's template, shape (B,).
        gold: Class with the correct label word, shape (B,).
    """

    text: Tensor
    text_length: Tensor
    classes: Tensor
    class_labels: Tensor
    template: Tensor
    gold: Tensor

    def without_demonstrations(self) -> Prompts:
        """Return the queries without their demonstrations."""
        return replace(self, text=self.text[:, -1:], text_length=self.text_length[:, -1:], classes=self.classes[:, -1:])

    def swapped(self) -> Prompts:
        """Return the prompts with the label words of the classes shifted by one.

        The correct label word is the new label word of the query's class.
        """
        return replace(self, class_labels=self.class_labels.roll(1, dims=1))

    def select(self, rows: Tensor) -> Prompts:
        """Return the prompts selected by a mask, shape (B,)."""
        return Prompts(**{name: value[rows] for name, value in vars(self).items()})

    def chunks(self, size: int) -> Iterator[Prompts]:
        """Yield the prompts in parts of at most ``size`` prompts."""
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
    label_pool: Tensor | None,
    class_words: Tensor | None,
    templates: Sequence[int],
    generator: torch.Generator,
) -> Prompts:
    """Sample prompts with demonstrations in random order and without duplicate texts within a prompt.

    The numbers of queries per topic differ by at most one.

    Args:
        demos: Texts from which the demonstrations are drawn.
        queries: Texts from which the queries are drawn; may be the same as ``demos``.
        topics: Indices, in both banks, of the topics to choose from.
        classes: Number of classes per prompt (K).
        shots: Number of demonstrations per class.
        number: Number of prompts (B).
        label_pool: Label tokens from which the label words are redrawn for each prompt. If None, ``class_words`` is used.
        class_words: Label token of each topic, shape (len(topics),).
        templates: Indices of the templates to choose from.
        generator: Random number generator for all draws.
    """

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    # Each topic is equally often the topic of the query, at a random index among the prompt's classes.
    asked = torch.arange(number) % len(topics)  # (B,)
    key = rand(number, len(topics)).scatter(1, asked[:, None], -1.0)  # (B, N)
    choice = key.argsort(1)[:, :classes]  # (B, K): the topic of the query, followed by others
    choice = choice.gather(1, rand(number, classes).argsort(1))  # (B, K)
    gold = (choice == asked[:, None]).int().argmax(1)  # (B,)
    topic = torch.tensor(topics)[choice]  # (B, K)
    if label_pool is not None:
        class_labels = label_pool[rand(number, len(label_pool)).argsort(1)[:, :classes]]  # (B, K)
    else:
        class_labels = class_words[choice]  # (B, K)
    order = rand(number, classes * shots).argsort(1) % classes  # (B, D)
    place = torch.arange(classes * shots + 1)
    wanted = torch.cat([order, gold[:, None]], dim=1)  # (B, D + 1)

    text, length = [], []
    rows = torch.zeros(number, classes * shots + 1, dtype=torch.long)  # (B, D + 1)
    for i in place.tolist():
        bank = queries if i == classes * shots else demos
        of = topic.gather(1, wanted[:, i : i + 1]).squeeze(1)  # (B,)
        # Texts that are already in the prompt are redrawn. A query from another bank cannot be a duplicate.
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
def class_predictions(model: PreTrainedModel, templates: Templates, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Return the predicted class and the most probable token of each prompt, each of shape (B,)."""
    longest = int(prompt_lengths(templates, prompts.template, prompts.text_length).max())
    classes, tokens = [], []
    for part in prompts.chunks(max(1, BATCH_TOKENS // longest)):
        label_ids = part.class_labels.gather(1, part.classes)  # (B, D + 1)
        input_ids, _, label_position = assemble(templates, part.template, part.text, part.text_length, label_ids)
        hidden = model.model(input_ids=input_ids, use_cache=False).last_hidden_state  # (B, T, W)
        # The query's own label comes after the position that is read, so the model cannot attend to it.
        logits = model.lm_head(hidden[torch.arange(len(hidden)), label_position[:, -1] - 1])  # (B, V)
        classes.append(logits.gather(1, part.class_labels).argmax(1))
        tokens.append(logits.argmax(1))
    return torch.cat(classes), torch.cat(tokens)


def bag_of_words_credit(prompts: Prompts, *, batch: int = 50) -> Tensor:
    """Return the credit of the bag-of-words vote for each prompt, shape (B,).

    The score of a demonstration is the number of distinct tokens of the query that it contains. The score of a class is the sum
    over its demonstrations. The credit is 1 if the gold class alone has the highest score, 1 / n if it ties with n - 1 other
    classes, and 0 otherwise.
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
    """Evaluation of one model.

    Args:
        model: The model, in evaluation mode and in float32.
        material: The material that the model was trained on.
        tables: The corpora table of each task.
        prompts: Number of prompts per cell.
        seed: Random seed of the prompts.
    """

    def __init__(
        self, model: PreTrainedModel, material: Material, tables: Mapping[str, pd.DataFrame], *, prompts: int, seed: int = SEED
    ) -> None:
        self.model = model
        self.material = material
        self.tasks = list(tables)
        self.longest_text = int(material.bank.text_length.max())  # no demonstration is longer than in training
        self.prompts = prompts
        self.generator = torch.Generator().manual_seed(seed)
        self.train, self.test = (self._bank(tables, split) for split in ("train", "test"))
        self.made_up = self._made_up_bank(seed)

    def _bank(self, tables: Mapping[str, pd.DataFrame], split: str) -> TopicBank:
        """Return the classes of the tasks as topics, with the texts of one split. A topic's lexicon is its label word."""
        tokenizer, topics = self.material.tokenizer, []
        for name, table in tables.items():
            task, rows = TASKS[name], training_texts(table) if split == "train" else table[table["split"] == split]
            for label, word in enumerate(task.label_words):
                topics.append(Topic(f"{name}/{label}", name, [word], rows.loc[rows["label"] == label, "text"].tolist()))
        longest = self.longest_text if split == "train" else None
        return TopicBank.build(topics, [], lambda text: tokenizer(text).input_ids, longest)

    def _made_up_bank(self, seed: int) -> TopicBank:
        """Return the bank of the training material, with generated texts for its made-up topics."""
        bank, material = self.material.bank, self.material
        made_up = [i for i, name in enumerate(bank.names) if name.startswith((MADE_UP, PLAIN_TEXT))]
        sampler = EpisodeSampler(bank, material.templates, material.label_pool, material.label_weight, seed)
        topic = torch.tensor(made_up)[:, None].expand(-1, MADE_UP_TEXTS)  # (M, n)
        text, length = sampler.make_texts(topic, MADE_UP_TEXT)  # (M, n, L), (M, n)
        text = text.masked_fill(torch.arange(text.shape[-1]) >= length[..., None], PAD)  # (M, n, L)
        start = torch.zeros_like(bank.text_start)  # (N,)
        count = torch.zeros_like(bank.text_count)  # (N,)
        start[made_up] = torch.arange(len(made_up)) * MADE_UP_TEXTS
        count[made_up] = MADE_UP_TEXTS
        return replace(bank, texts=text.flatten(0, 1), text_length=length.flatten(), text_start=start, text_count=count)

    def _topics(self, task: str, shots: int, demos: TopicBank) -> list[int]:
        """Return the classes of a task with at least one test text for the query and enough texts for demonstrations.

        The result is empty if there are fewer than two such classes.
        """
        enough = (demos.text_count >= shots + (demos is self.test)) & (self.test.text_count > 0)  # (N,)
        topics = [i for i, name in enumerate(self.test.names) if name.startswith(f"{task}/") and enough[i]]
        return topics if len(topics) >= 2 else []

    def measure(self, measure: str, on: str, shots: int, prompts: Prompts) -> Measure | None:
        """Measure the model and the bag-of-words baseline on prompts.

        Prompts that do not fit into the context are excluded.

        Returns:
            One row of the table, or None if no prompt fits into the context.
        """
        length = prompt_lengths(self.material.templates, prompts.template, prompts.text_length)  # (B,)
        fits = length <= self.model.config.max_position_embeddings  # (B,)
        if not fits.all():
            message = "%s, %s, %d per class: %d of %d prompts are longer than the context and are excluded"
            logger.info(message, measure, on, shots, int((~fits).sum()), len(fits))
            prompts = prompts.select(fits)
        if not fits.any():
            return None
        predicted, token = class_predictions(self.model, self.material.templates, prompts)
        right = prompts.class_labels.gather(1, prompts.gold[:, None]).squeeze(1)  # (B,)
        classes = prompts.class_labels.shape[1]
        row = Measure(
            measure=measure,
            on=on,
            classes=classes,
            shots=shots,
            prompts=len(predicted),
            chance=round(1 / classes, 4),
            model=round((predicted == prompts.gold).float().mean().item(), 4),
            top_token=round((token == right).float().mean().item(), 4),
            bag_of_words=round(bag_of_words_credit(prompts).mean().item(), 4),
        )
        logger.info("%s", "  ".join(f"{name} {value}" for name, value in asdict(row).items()))
        return row

    def fresh_labels(self, classes: int, shots: int) -> Prompts | None:
        """Sample prompts of held-out texts with random label words, the same number for each task that has enough classes.

        The result is None if no task has enough classes.
        """
        topics = {task: self._topics(task, shots, self.test) for task in self.tasks}
        tasks = [task for task in self.tasks if len(topics[task]) >= classes]
        if not tasks:
            return None
        parts = [
            draw_prompts(
                self.test,
                self.test,
                topics[task],
                classes=classes,
                shots=shots,
                number=math.ceil(self.prompts / len(tasks)),
                label_pool=self.material.label_pool,
                class_words=None,
                templates=range(len(TASKS)),
                generator=self.generator,
            )
            for task in tasks
        ]
        width = max(part.text.shape[-1] for part in parts)
        parts = [replace(part, text=F.pad(part.text, (0, width - part.text.shape[-1]), value=PAD)) for part in parts]
        return Prompts(**{entry.name: torch.cat([getattr(part, entry.name) for part in parts]) for entry in fields(Prompts)})

    def made_up_topics(self, kind: str, classes: int) -> Prompts | None:
        """Sample prompts about made-up topics of one kind, with random label words and one demonstration per class.

        The result is None if there are not enough topics.
        """
        topics = [i for i, name in enumerate(self.made_up.names) if name.startswith(f"{kind}/")]
        if len(topics) < classes:
            return None
        return draw_prompts(
            self.made_up,
            self.made_up,
            topics,
            classes=classes,
            shots=1,
            number=self.prompts,
            label_pool=self.material.label_pool,
            class_words=None,
            templates=range(len(TASKS)),
            generator=self.generator,
        )

    def paper_task(self, task: str, shots: int) -> Prompts | None:
        """Sample prompts of a task in the paper's setting.

        The prompts use the task's own template and label words, and the demonstrations are training texts. The result is None
        if fewer than two classes have enough texts.
        """
        topics = self._topics(task, shots, self.train)
        if not topics:
            return None
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

    def brief(self) -> list[Measure]:
        """Compute the measures with one demonstration per class, for the learning curve."""
        rows = []
        for classes in CLASSES:
            if prompts := self.fresh_labels(classes, 1):
                rows.append(self.measure("fresh label words", "held-out texts", 1, prompts))
        for classes in CLASSES:
            if prompts := self.made_up_topics(PLAIN_TEXT, classes):
                rows.append(self.measure("fresh label words", "topics seen as plain text only", 1, prompts))
        for task in self.tasks:
            if prompts := self.paper_task(task, 1):
                rows.append(self.measure("paper's label words", task, 1, prompts))
        return [row for row in rows if row]

    def table(self) -> list[Measure]:
        """Compute all measures."""
        rows = []
        for classes in CLASSES:
            for shots in SHOTS:
                prompts = self.fresh_labels(classes, shots)
                if prompts is None:
                    continue
                rows.append(self.measure("fresh label words", "held-out texts", shots, prompts))
                if shots == 1:
                    alone = prompts.without_demonstrations()
                    rows.append(self.measure("fresh label words, no demonstrations", "held-out texts", 0, alone))
                    rows.append(self.measure("fresh label words, swapped", "held-out texts", 1, prompts.swapped()))
        for kind, on in ((PLAIN_TEXT, "topics seen as plain text only"), (MADE_UP, "topics seen in episodes")):
            for classes in CLASSES:
                if prompts := self.made_up_topics(kind, classes):
                    rows.append(self.measure("fresh label words", on, 1, prompts))
        for task in self.tasks:
            for shots in SHOTS:
                prompts = self.paper_task(task, shots)
                if prompts is None:
                    continue
                rows.append(self.measure("paper's label words", task, shots, prompts))
                if shots == 1:
                    alone = prompts.without_demonstrations()
                    rows.append(self.measure("paper's label words, no demonstrations", task, 0, alone))
                    rows.append(self.measure("paper's label words, swapped", task, 1, prompts.swapped()))
        return [row for row in rows if row]


def run(
    checkpoints: Path, facts: Path, corpora: Sequence[Path], out: Path, *, prompts: int = 1000, curve_prompts: int = 200
) -> None:
    """Evaluate the checkpoints of a training run and write the evaluation table.

    The last checkpoint is evaluated with all measures, the others only with those of the learning curve.

    Args:
        checkpoints: The folder with the checkpoints, or a single checkpoint, which is treated as the last one.
        facts: The facts file of the training run, or a model card.
        corpora: The corpora tables that the model was trained on.
        out: Output path of the table.
        prompts: Number of prompts per cell for the last checkpoint.
        curve_prompts: Number of prompts per cell for the other checkpoints.

    Raises:
        InputError: If a file is missing or corrupted, or if the texts are not those that the model was trained on.
    """
    training = read_facts(facts)
    recipe = Recipe.model_validate(training["recipe"])
    tables = read_corpora(corpora)
    for task, digest in training["corpora"].items():
        if task not in tables or content_hash(tables[task]) != digest:
            raise InputError(
                f"--corpora lacks the texts of {task} that the model was trained on (according to {facts}); make them with the "
                "same config, or train the model again"
            )
    tables = {task: tables[task] for task in training["corpora"]}
    material = Material.build(recipe, tables)
    rows = []
    folders = steps_of(checkpoints, training["steps"])
    for step, folder in folders.items():
        loaded = loading.load(folder, device="cpu")
        if loaded.tokenizer.backend_tokenizer.to_str() != material.tokenizer.backend_tokenizer.to_str():
            raise InputError(f"the tokenizer of {folder} differs from that of {facts}; use files of the same training run")
        model, last = loaded.network, step == max(folders)
        logger.info("checkpoint after %d steps", step)
        evaluation = Evaluation(model, material, tables, prompts=prompts if last else curve_prompts)
        rows += [{"step": step, **asdict(row)} for row in (evaluation.table() if last else evaluation.brief())]
    metadata = provenance.describe(
        EVALUATION,
        [__name__],
        # The facts file is not an input because it contains timings. The checkpoints' hashes identify the evaluated weights.
        inputs={hashes.artifact_name(path, out): hashes.file_hash(path) for path in corpora},
        settings={"prompts": prompts, "curve_prompts": curve_prompts},
        seeds=[SEED],
        checkpoints={folder.name: hashes.files_hash(checkpoint_files(folder)) for folder in folders.values()},
        threads=torch.get_num_threads(),
    )
    parquet.write(out, pd.DataFrame(rows), EVALUATION, metadata)


def steps_of(checkpoints: Path, last: int) -> dict[int, Path]:
    """Return the checkpoint folders of a training run by step.

    Args:
        checkpoints: The folder with the checkpoints, or a single checkpoint, which is treated as the last one.
        last: The step of the last checkpoint.

    Raises:
        InputError: If the last checkpoint is missing.
    """
    if (checkpoints / "config.json").is_file():
        return {last: checkpoints}
    found = {checkpoint_step(folder): folder for folder in sorted(checkpoints.glob("step-*")) if folder.is_dir()}
    if last not in found:
        raise InputError(
            f"--checkpoints {checkpoints} lacks the last checkpoint (step {last}); run `snakemake organism` to make it"
        )
    return found
