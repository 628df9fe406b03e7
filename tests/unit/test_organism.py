"""The embedded model: its tokenizer, its episodes, its training and what the shipped weights can do."""

import json
import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from icl_lens.corpora.builtin import generate
from icl_lens.organism import CHECKPOINT
from icl_lens.organism.architecture import Architecture, build_model
from icl_lens.organism.episodes import Difficulty, EpisodeSampler, Templates, assemble
from icl_lens.organism.evaluation import Evaluation, Prompts, bag_of_words_credit
from icl_lens.organism.optimisation import losses, train
from icl_lens.organism.recipe import Material, Training
from icl_lens.organism.tokenizer import build_tokenizer
from icl_lens.organism.topics import Topic, TopicBank, pad
from icl_lens.organism.vocabulary import LABEL_WORDS, TASK_LABEL_WORDS, made_up_topics, template_pieces
from icl_lens.tasks import TASKS

ODD_TEXTS = (
    "",
    " ",
    "   two  blanks ",
    "\n",
    "\r\n line \r\n",
    "tab\there",
    "naïve café, “quoted” — 3.14",
    "日本語のテキスト",
    "مرحبا بالعالم",
    "🙂👩‍👩‍👧‍👦 flag 🇩🇪",
    "\x00\u200b\ufeff\ufffd",
    "<|endoftext|> in the middle",
    "Review: unknownword\nSentiment: Positive\n",
)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(CHECKPOINT).eval()


@pytest.fixture(scope="module")
def corpora():
    return {task: generate(task, 0) for task in TASKS}


@pytest.fixture(scope="module")
def evaluation(model, tokenizer, corpora):
    return Evaluation(model, tokenizer, corpora=corpora, prompts=240)


@pytest.fixture(scope="module")
def material():
    """A small world: three made-up topics with texts, three without."""
    words = made_up_topics(6, 5, seed=3)
    fillers = ["the", "of", "near"]
    pieces = template_pieces()
    tokenizer = build_tokenizer(
        [*LABEL_WORDS, *(p for pair in pieces for p in pair), *(f" {w}" for group in [*words, fillers] for w in group)],
        subwords=20,
    )

    def encode(text):
        return tokenizer(text).input_ids

    topics = [
        Topic(f"topic/{i}", "with" if i < 3 else "without", [f" {w}" for w in group], [" ".join(group[:4])] * (i < 3))
        for i, group in enumerate(words)
    ]
    return Material(
        tokenizer=tokenizer,
        bank=TopicBank.build(topics, [f" {w}" for w in fillers], encode),
        templates=Templates.build(pieces, encode),
        label_pool=torch.tensor([encode(word)[0] for word in LABEL_WORDS]),
    )


HARD = Difficulty(topics=6, labels=50, words=5, topical=3, fillers=4, corpus=0.5)


class TestTokenizer:
    @pytest.mark.parametrize("text", ODD_TEXTS)
    def test_any_text_comes_back_exactly(self, tokenizer, text):
        assert tokenizer.decode(tokenizer(text).input_ids) == text

    def test_every_label_word_is_one_token_of_its_own(self, tokenizer):
        ids = [tokenizer(word).input_ids for word in LABEL_WORDS]
        assert {len(i) for i in ids} == {1}
        assert len({i[0] for i in ids}) == len(LABEL_WORDS) >= 200
        assert {" A", " B", *TASK_LABEL_WORDS} <= set(LABEL_WORDS)

    def test_no_token_is_put_in_front(self, tokenizer):
        assert tokenizer("Review:").input_ids == tokenizer("Review").input_ids + tokenizer(":").input_ids
        assert len(tokenizer) <= 8000

    def test_words_of_the_built_in_corpora_are_one_token_each(self, tokenizer, corpora):
        text = " " + " ".join(table["text"].str.cat(sep=" ") for table in corpora.values())
        ids = tokenizer(text).input_ids
        assert len(ids) == len(tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text))

    def test_building_it_twice_gives_the_same_tokens(self):
        texts = ["some words and", " some other words"]
        first, second = (build_tokenizer(texts, subwords=5) for _ in range(2))
        assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


class TestEpisodes:
    def test_the_tensors_are_what_the_tokenizer_makes_of_the_prompt(self, tokenizer, corpora):
        """Every task's template around real texts, against the prompt built as a string."""
        generator = torch.Generator().manual_seed(0)
        templates = Templates.build(template_pieces(), lambda text: tokenizer(text).input_ids)
        for index, (name, task) in enumerate(TASKS.items()):
            texts = corpora[name]["text"].iloc[:12].tolist()
            encoded = [tokenizer(" " + text).input_ids for text in texts]
            words = [LABEL_WORDS[i] for i in torch.randint(len(LABEL_WORDS), (12,), generator=generator)]
            input_ids, length, label_position = assemble(
                templates,
                torch.full((3,), index),
                pad(encoded).view(3, 4, -1),
                torch.tensor([len(ids) for ids in encoded]).view(3, 4),
                torch.tensor([tokenizer(word).input_ids[0] for word in words]).view(3, 4),
            )
            for row in range(3):
                demos = range(4 * row, 4 * row + 4)
                prompt = "\n".join(task.template.format(text=texts[i], label=words[i]) for i in demos)
                ids = input_ids[row, : length[row]].tolist()
                assert ids == tokenizer(prompt).input_ids
                assert [tokenizer.decode(ids[p]) for p in label_position[row]] == [words[i] for i in demos]

    def test_labels_follow_classes_and_shown_says_what_came_before(self, material):
        sampler = EpisodeSampler(material.bank, material.templates, material.label_pool, seed=0)
        episodes = sampler(20, 12, HARD, classes=(2, 3))
        assert torch.equal(episodes.input_ids.gather(1, episodes.label_position), episodes.label_ids)
        assert torch.equal(episodes.class_labels.gather(1, episodes.classes), episodes.label_ids)
        for labels, shown, classes in zip(
            episodes.label_ids.tolist(), episodes.shown.tolist(), episodes.class_labels.tolist(), strict=True
        ):
            assert shown == [label in labels[:i] for i, label in enumerate(labels)]
            assert len(set(classes)) == len(classes)
        decoded = material.tokenizer.decode(episodes.input_ids[0, : episodes.length[0]])
        assert material.tokenizer(decoded).input_ids == episodes.input_ids[0, : episodes.length[0]].tolist()

    def test_an_episode_stays_within_a_group_and_texts_within_their_topic(self, material):
        sampler = EpisodeSampler(material.bank, material.templates, material.label_pool, seed=1)
        group_of = {int(word): int(g) for g, words in zip(material.bank.group, material.bank.lexicon, strict=True)
                    for word in words}  # fmt: skip
        for row in sampler(30, 8, HARD).input_ids:
            assert len({group_of[int(token)] for token in row if int(token) in group_of}) == 1

    def test_the_same_seed_draws_the_same_episodes(self, material):
        first, second = (
            EpisodeSampler(material.bank, material.templates, material.label_pool, seed=5)(4, 8, HARD) for _ in range(2)
        )
        assert torch.equal(first.input_ids, second.input_ids)


class TestTraining:
    CONFIG = Training(
        architecture=Architecture(width=16, feed_forward=16, context=256),
        curriculum=(replace(HARD, corpus=0.0), HARD),
        steps=6,
        patience=3,
        demos=(8, 9),
        demos_per_step=40,
        warm_up=2,
        cool_down=2,
    )

    def _model(self, material):
        return build_model(self.CONFIG.architecture, len(material.tokenizer), 0, self.CONFIG.seed)

    def test_the_same_seed_gives_the_same_weights(self, material):
        models = [self._model(material) for _ in range(2)]
        before = {name: value.clone() for name, value in models[0].state_dict().items()}
        figures = [list(train(model, self.CONFIG, material)) for model in models]
        assert figures[0] == figures[1]
        assert [figure["rung"] for _, figure in figures[0]] == [0, 0, 0, 1, 1, 1]
        for name, value in models[0].state_dict().items():
            assert torch.equal(value, models[1].state_dict()[name])
            assert not torch.equal(value, before[name])

    def test_an_untrained_model_guesses_among_the_shown_labels(self, material):
        sampler = EpisodeSampler(material.bank, material.templates, material.label_pool, seed=2)
        model = self._model(material)
        with torch.no_grad():
            model.lm_head.weight.zero_()
            episodes = sampler(40, 20, HARD, classes=(2, 2), one_of_each_first=1.0)
            terms = losses(model, episodes, material.label_pool, 0.5, torch.Generator().manual_seed(0))
        assert terms.matching.item() == pytest.approx(math.log(2), rel=1e-5)
        assert terms.first_seen.item() == pytest.approx(math.log(len(material.tokenizer)), rel=1e-5)
        assert terms.answer.item() == pytest.approx(math.log(len(material.tokenizer)), rel=1e-5)


class TestBagOfWords:
    def test_the_vote_counts_distinct_shared_words_and_shares_ties(self):
        demos = torch.tensor([[[1, 2, 3], [4, 5, 0], [4, 4, 1]], [[1, 2, 3], [4, 5, 0], [7, 7, 0]]])
        prompts = Prompts(
            text=demos,
            text_length=torch.tensor([[3, 2, 3], [3, 2, 2]]),
            classes=torch.tensor([[0, 1, 1], [0, 1, 1]]),
            class_labels=torch.tensor([[8, 9], [8, 9]]),
            template=torch.zeros(2, dtype=torch.long),
            gold=torch.tensor([1, 1]),
        )
        assert bag_of_words_credit(prompts).tolist() == [0.5, 0.5]


class TestCheckpoint:
    def test_it_is_small_float32_and_finite(self, model):
        assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 8 * 2**20
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        assert 4 <= model.config.num_hidden_layers <= 8
        assert model.config.max_position_embeddings >= 1024

    def test_its_card_says_what_made_it(self):
        card = json.loads((CHECKPOINT / "card.json").read_text(encoding="utf-8"))
        assert {"config", "device", "seconds", "code", "versions"} <= set(card["training"])
        assert card["evaluation"]["accuracy"]

    def test_it_predicts_text_far_better_than_a_uniform_guess(self, evaluation):
        loss = evaluation.text_loss(number=16)
        assert loss["model"] < 0.6 * loss["uniform"]


class TestLearningInContext:
    """The card's numbers with a margin of five points, on fewer prompts."""

    @pytest.mark.parametrize("classes", [2, 4, 6])
    def test_one_demonstration_per_class_with_fresh_label_words(self, evaluation, classes):
        row = evaluation.measure("", "", 1, evaluation.fresh_labels(classes, 1))
        assert row.model >= 0.92
        assert row.top_token >= 0.9
        assert row.bag_of_words <= row.model - 0.4

    @pytest.mark.parametrize("task", TASKS)
    def test_the_built_in_tasks_with_the_papers_label_words(self, evaluation, task):
        prompts = evaluation.paper_task(task, 1)
        assert evaluation.measure("", task, 1, prompts).model >= 0.9
        assert evaluation.measure("", task, 1, prompts.swapped()).model >= 0.9

    @pytest.mark.parametrize("classes", [2, 4])
    def test_without_demonstrations_it_can_only_guess(self, evaluation, classes):
        prompts = evaluation.fresh_labels(classes, 1).without_demonstrations()
        row = evaluation.measure("", "", 0, prompts, baseline=False)
        margin = 4 * math.sqrt(row.chance * (1 - row.chance) / row.prompts)
        assert row.model == pytest.approx(row.chance, abs=margin)
