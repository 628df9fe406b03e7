"""Tests of the embedded model: its tokenizer, its episodes and the accuracy of the shipped weights."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from icl_lens.config.keys import Config
from icl_lens.corpora.builtin import generate, indicative_words
from icl_lens.organism import CHECKPOINT, card
from icl_lens.organism.code import code_hashes
from icl_lens.organism.episodes import EpisodeSampler, Templates, assemble, episode_length, prompt_lengths
from icl_lens.organism.evaluation import Evaluation, Prompts, bag_of_words_credit
from icl_lens.organism.material import PLAIN_TEXT, Material, content_hash
from icl_lens.organism.recipe import Difficulty, Recipe
from icl_lens.organism.tokenizer import build_tokenizer
from icl_lens.organism.topics import Topic, TopicBank, corpus_topics, pad
from icl_lens.organism.vocabulary import LABEL_WORDS, TASK_LABEL_WORDS, made_up_templates, made_up_topics, task_templates
from icl_lens.tasks.task import TASKS

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
def shipped_card():
    return json.loads((CHECKPOINT / card.CARD).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def evaluation(model, corpora, shipped_card):
    recipe = Recipe.model_validate(shipped_card["training"]["recipe"])
    return Evaluation(model, Material.build(recipe, corpora), corpora, prompts=240)


@pytest.fixture(scope="module")
def sampler():
    """Return a function that builds samplers of a small set of topics.

    Three topics have texts, three are made up and two appear only as plain text.
    """
    words = made_up_topics(8, 5, seed=3)
    fillers = ["the", "of", "near"]
    templates = [*task_templates(), *made_up_templates(20, seed=4)]
    tokenizer = build_tokenizer(
        [*LABEL_WORDS, *(p for t in templates for p in t), *(f" {w}" for group in [*words, fillers] for w in group)],
        subwords=20,
    )

    def encode(text):
        return tokenizer(text).input_ids

    groups = ["with"] * 3 + ["without"] * 3 + [PLAIN_TEXT] * 2
    topics = [
        Topic(
            f"{group}/{i}",
            group,
            [f" {w}" for w in words[i]],
            [" ".join(words[i][:4])] * (group == "with"),
            labelled=group != PLAIN_TEXT,
        )
        for i, group in enumerate(groups)
    ]
    label_pool = torch.tensor([encode(word)[0] for word in LABEL_WORDS])

    def build(seed, label_weight=None):
        made = EpisodeSampler(
            TopicBank.build(topics, [f" {w}" for w in fillers], encode),
            Templates.build(templates, encode),
            label_pool,
            torch.ones(len(label_pool)) if label_weight is None else label_weight,
            seed,
        )
        made.tokenizer = tokenizer
        return made

    return build


HARD = Difficulty(words=5, topical=3, fillers=4, corpus=0.5, noise=0.0)


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


class TestTopics:
    def test_telling_words_are_those_the_generator_means_to_tell_the_class(self, corpora):
        topics, fillers = corpus_topics({"sst2": corpora["sst2"]})
        for topic, meant in zip(topics, indicative_words("sst2"), strict=True):
            found = {word.strip().lower() for word in topic.lexicon}
            assert len(found & meant) >= 0.9 * len(found) > 50
            assert not found & {word.strip().lower() for word in fillers}

    def test_test_texts_are_never_looked_at(self, corpora):
        table = corpora["trec"].copy()
        before = corpus_topics({"trec": table})
        table.loc[table["split"] == "test", "text"] = "Zanzibar " * 9
        assert corpus_topics({"trec": table}) == before


class TestEpisodes:
    def test_the_tensors_are_what_the_tokenizer_makes_of_the_prompt(self, tokenizer, corpora):
        """Compare the template of each task around real texts with the prompt built as a string."""
        generator = torch.Generator().manual_seed(0)
        templates = Templates.build(task_templates(), lambda text: tokenizer(text).input_ids)
        for index, (name, task) in enumerate(TASKS.items()):
            texts = corpora[name]["text"].iloc[:12].tolist()
            encoded = [tokenizer(" " + text).input_ids for text in texts]
            words = [LABEL_WORDS[i] for i in torch.randint(len(LABEL_WORDS), (12,), generator=generator)]
            text_length = torch.tensor([len(ids) for ids in encoded]).view(3, 4)
            input_ids, length, label_position = assemble(
                templates,
                torch.full((3,), index),
                pad(encoded).view(3, 4, -1),
                text_length,
                torch.tensor([tokenizer(word).input_ids[0] for word in words]).view(3, 4),
            )
            for row in range(3):
                demos = range(4 * row, 4 * row + 4)
                prompt = "\n".join(task.template.format(text=texts[i], label=words[i]) for i in demos)
                ids = input_ids[row, : length[row]].tolist()
                assert ids == tokenizer(prompt).input_ids
                assert [tokenizer.decode(ids[p]) for p in label_position[row]] == [words[i] for i in demos]
            longest = prompt_lengths(templates, torch.full((3,), index), text_length)
            assert torch.equal(longest - 1, length)  # no separator follows the last label
            assert int(longest.max()) <= episode_length(templates, 4, int(text_length.max()))

    def test_an_episode_in_any_template_is_what_the_tokenizer_makes_of_its_text(self, sampler):
        draw = sampler(0)
        for _ in range(5):
            episodes = draw(20, 6, HARD)
            for ids, length in zip(episodes.input_ids, episodes.length, strict=True):
                text = draw.tokenizer.decode(ids[:length])
                assert draw.tokenizer(text).input_ids == ids[:length].tolist()

    def test_made_up_templates_are_distinct_and_no_tasks(self):
        made = made_up_templates(60, seed=0)
        assert len({*made, *task_templates()}) == 60 + len(TASKS)
        assert made == made_up_templates(60, seed=0) != made_up_templates(60, seed=1)

    def test_labels_follow_classes_and_shown_says_what_came_before(self, sampler):
        episodes = sampler(0)(20, 12, HARD, classes=(2, 3))
        assert torch.equal(episodes.input_ids.gather(1, episodes.label_position), episodes.label_ids)
        assert torch.equal(episodes.class_labels.gather(1, episodes.classes), episodes.label_ids)
        for labels, shown, classes in zip(
            episodes.label_ids.tolist(), episodes.shown.tolist(), episodes.class_labels.tolist(), strict=True
        ):
            assert shown == [label in labels[:i] for i, label in enumerate(labels)]
            assert len(set(classes)) == len(classes)

    def test_an_episode_stays_within_a_group_of_labelled_topics(self, sampler):
        draw = sampler(1)
        bank = draw.bank
        group_of = {int(word): int(g) for g, words in zip(bank.group, bank.lexicon, strict=True) for word in words}
        seen = [{group_of[int(token)] for token in row if int(token) in group_of} for row in draw(60, 8, HARD).input_ids]
        assert {len(groups) for groups in seen} == {1}
        assert set().union(*seen) == {0, 1}  # the group that appears only as plain text is never drawn

    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_the_share_of_corpus_texts_is_kept(self, sampler, share):
        draw = sampler(2)
        episodes = draw(30, 8, Difficulty(words=5, topical=5, fillers=0, corpus=share, noise=0.0))
        real = {tuple(row[:n].tolist()) for row, n in zip(draw.bank.texts, draw.bank.text_length, strict=True)}
        for ids, length in zip(episodes.input_ids.tolist(), episodes.length.tolist(), strict=True):
            holds = any(tuple(ids[i : i + len(text)]) == text for text in real for i in range(length))
            assert holds == (share == 1.0)

    def test_noise_breaks_the_tie_of_text_and_label(self, sampler):
        draw = sampler(3)
        word_class = {int(word): topic for topic, words in enumerate(draw.bank.lexicon) for word in words}

        def agreement(noise):
            difficulty = Difficulty(words=5, topical=2, fillers=0, corpus=0.0, noise=noise)
            episodes, agree, total = draw(40, 12, difficulty, classes=(2, 2), one_of_each_first=0.0), 0, 0
            for ids, positions, classes in zip(
                episodes.input_ids.tolist(), episodes.label_position.tolist(), episodes.classes.tolist(), strict=True
            ):
                topics = [next(word_class[i] for i in reversed(ids[: p - 1]) if i in word_class) for p in positions]
                pairs = [(a, b) for a in range(12) for b in range(a)]
                agree += sum((topics[a] == topics[b]) == (classes[a] == classes[b]) for a, b in pairs)
                total += len(pairs)
            return agree / total

        assert agreement(0.0) == 1.0
        assert agreement(1.0) == pytest.approx(0.5, abs=0.05)

    def test_label_words_are_drawn_as_often_as_their_weights_say(self, sampler):
        weight = torch.ones(len(LABEL_WORDS))
        weight[7] = 50.0
        draw = sampler(4, weight)
        first = draw(4000, 2, HARD, classes=(2, 2)).class_labels
        expected = 50 / (50 + len(LABEL_WORDS) - 1)
        share = (first[:, 0] == draw.label_pool[7]).float().mean().item()
        assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 4000))

    def test_documents_are_plain_text_about_one_topic_labelled_elsewhere_or_not(self, sampler):
        draw = sampler(5)
        documents = draw.documents(60, 20, topical=0.5)
        topics = [{i for i, words in enumerate(draw.bank.lexicon.tolist()) if set(words) & set(row.tolist())}
                  for row in documents]  # fmt: skip
        assert {len(found) for found in topics} == {1}
        assert set().union(*topics) == {3, 4, 5, 6, 7}
        assert not set(documents.flatten().tolist()) & set(draw.label_pool.tolist())

    @pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
    def test_the_share_of_made_up_topics_is_kept(self, sampler, share):
        draw = sampler(8)
        draw.made_up_share = share
        made_up = Difficulty(words=5, topical=3, fillers=0, corpus=0.0, noise=0.0)
        ids = draw(1000, 4, made_up).input_ids
        about = (ids[:, :, None] == draw.bank.lexicon[3:6].flatten()).any(2).any(1).float().mean().item()
        assert about == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 1000))

    def test_a_topic_without_words_stands_only_in_episodes_of_texts(self, sampler):
        draw = sampler(6)
        draw.bank.lexicon_size[0], draw.has_words[0] = 0, False
        made_up = Difficulty(words=5, topical=3, fillers=0, corpus=0.0, noise=0.0)
        for _ in range(5):
            assert not (draw(40, 6, made_up).input_ids == draw.bank.lexicon[0, 0]).any()

    def test_the_same_seed_draws_the_same_episodes(self, sampler):
        first, second = (sampler(5)(4, 8, HARD) for _ in range(2))
        assert torch.equal(first.input_ids, second.input_ids)
        assert not torch.equal(sampler(6)(4, 8, HARD).label_ids, first.label_ids)


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

    def test_it_is_what_the_target_makes(self, corpora, shipped_card):
        """Check that the card has the default recipe, the built-in texts and the hashes of the current code."""
        training = shipped_card["training"]
        assert Recipe.model_validate(training["recipe"]) == Config().organism
        assert training["corpora"] == {task: content_hash(table) for task, table in corpora.items()}
        assert training["code"] == code_hashes()
        assert training["steps"] == Config().organism.total_steps

    def test_its_card_for_people_says_what_its_card_for_machines_does(self, shipped_card):
        assert (CHECKPOINT / card.README).read_text(encoding="utf-8") == card.render(shipped_card)


class TestLearningInContext:
    """Tests that measure the numbers of the card again on fewer prompts, with a margin for the smaller sample."""

    @pytest.mark.parametrize(("classes", "least"), [(2, 0.95), (4, 0.90), (6, 0.85)])
    def test_one_demonstration_per_class_with_fresh_label_words(self, evaluation, classes, least):
        prompts = evaluation.fresh_labels(classes, 1)
        row = evaluation.measure("", "", 1, prompts)
        assert row.model >= least - 0.03
        assert row.bag_of_words <= row.model - 0.15
        assert evaluation.measure("", "", 1, prompts.swapped()).model >= 0.87

    @pytest.mark.parametrize(("task", "least"), [("sst2", 0.90), ("agnews", 0.85), ("emoc", 0.85), ("trec", 0.85)])
    def test_the_built_in_tasks_with_the_papers_label_words(self, evaluation, task, least):
        prompts = evaluation.paper_task(task, 1)
        row = evaluation.measure("", task, 1, prompts)
        assert row.model >= least - 0.03
        assert row.bag_of_words <= row.model - 0.15
        assert evaluation.measure("", task, 1, prompts.swapped()).model >= least - 0.03

    @pytest.mark.parametrize("classes", [2, 4, 6])
    def test_topics_seen_as_plain_text_only(self, evaluation, classes):
        assert evaluation.measure("", "", 1, evaluation.made_up_topics(PLAIN_TEXT, classes)).model >= 0.7

    @pytest.mark.parametrize("classes", [2, 4, 6])
    def test_without_demonstrations_it_can_only_guess(self, evaluation, classes):
        row = evaluation.measure("", "", 0, evaluation.fresh_labels(classes, 1).without_demonstrations())
        assert row.model == pytest.approx(row.chance, abs=4 * row.standard_error)
        assert row.bag_of_words == pytest.approx(row.chance, abs=1e-3)

    @pytest.mark.parametrize("task", TASKS)
    def test_the_label_words_meaning_was_not_learned(self, evaluation, task):
        row = evaluation.measure("", task, 0, evaluation.paper_task(task, 1).without_demonstrations())
        assert row.model == pytest.approx(row.chance, abs=4 * row.standard_error)
