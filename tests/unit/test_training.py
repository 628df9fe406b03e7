"""Tests of training: errors in the recipe, the loss, resuming after an interruption, and the tables and card it writes."""

import json
import math
import shutil
from itertools import pairwise

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from icl_lens.cli import commands
from icl_lens.config import parse
from icl_lens.corpora import tables
from icl_lens.errors import InputError
from icl_lens.organism import card, evaluation, training
from icl_lens.organism.episodes import prompt_lengths
from icl_lens.organism.material import Material
from icl_lens.organism.optimisation import Trainer, learning_rate, losses
from icl_lens.organism.recipe import Recipe
from tests import artifacts

TINY = {
    "steps": 60,
    "warm_up": 5,
    "checkpoints": 4,
    "architecture": {"width": 16, "layers": 2, "feed_forward": 16, "context": 1024},
    "episodes": {
        "demonstrations": [4, 6],
        "demonstrations_per_step": 24,
        "made_up_topics": 10,
        "made_up_words": 5,
        "plain_text_topics": 3,
        "made_up_templates": 4,
    },
    "vocabulary": 3000,
    "subwords": 50,
    "curriculum": {"patience": 4, "rungs": [{"words": 2}, {"fillers": 2}, {"corpus": 0.5, "noise": 0.1}]},
}


@pytest.fixture(scope="module")
def recipe():
    return Recipe.model_validate(TINY)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """The built-in corpora of two tasks, written as in the workflow."""
    folder = tmp_path_factory.mktemp("results") / "corpora"
    for task in ("sst2", "trec"):
        tables.write_builtin(task, 0, folder / f"{task}.parquet")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def texts(corpora):
    return training.read_corpora(corpora)


@pytest.fixture(scope="module")
def material(recipe, texts):
    return Material.build(recipe, texts)


def run(folder, recipe, corpora):
    """Run one training as the workflow rule does and return the paths of its files."""
    places = {
        "work": folder / "unfinished",
        "checkpoints": folder / "checkpoints",
        "table": folder / "training.parquet",
        "facts": folder / "training.json",
    }
    training.run(recipe, corpora, device="cpu", **places)
    return places


@pytest.fixture(scope="module")
def trained(tmp_path_factory, recipe, corpora):
    return run(tmp_path_factory.mktemp("trained") / "training", recipe, corpora)


class TestRecipe:
    def test_the_curriculum_keeps_what_a_rung_does_not_turn(self, recipe):
        first, second, third = recipe.curriculum.difficulties()
        assert (first.words, first.fillers, first.corpus) == (2, 0, 0.0)
        assert (second.words, second.fillers, second.corpus) == (2, 2, 0.0)
        assert (third.words, third.fillers, third.corpus, third.noise) == (2, 2, 0.5, 0.1)

    def test_checkpoints_are_log_spaced_from_nothing_to_the_last_step(self):
        steps = Recipe().checkpoint_steps()
        assert 15 <= len(steps) <= 20
        assert steps[0] == 0
        assert steps[-1] == Recipe().total_steps
        ratios = [b / a for a, b in pairwise(steps[1:])]
        assert max(ratios) / min(ratios) < 1.1
        assert Recipe(steps=3).checkpoint_steps() == [0, 3]

    def test_a_budget_decides_the_steps_unless_they_are_given(self):
        assert Recipe(budget="long").total_steps > Recipe(budget="quick").total_steps
        assert Recipe(budget="long", steps=7).total_steps == 7

    @pytest.mark.parametrize(
        ("keys", "sentence"),
        [
            ({"architecture": {"width": 60, "heads": 8}}, "width 60 cannot be divided into 8 heads"),
            ({"architecture": {"layers": 2, "local_layers": 3}}, "local_layers must be at most layers \\(2\\), got 3"),
            ({"episodes": {"demonstrations": [9, 3]}}, "the minimum must come first"),
            ({"episodes": {"classes": [1, 3]}}, "classes: the minimum must be at least 2"),
            ({"episodes": {"demonstrations": [1, 3]}}, "demonstrations: the minimum must be at least 2"),
            ({"learning_rate": float("inf")}, "finite number"),
            ({"episodes": {"made_up_topics": 10, "plain_text_topics": 8}}, "must be at least 6"),
            ({"curiculum": {}}, "did you mean 'curriculum'"),
            ({"curriculum": {"rungs": [{"wrods": 1}]}}, "did you mean 'words'"),
            ({"learning_rate": -1.0}, "'organism.learning_rate' must be greater than 0, got -1.0"),
            ({"curriculum": {"rungs": [{"corpus": 1.5}]}}, "less than or equal to 1"),
        ],
    )
    def test_what_cannot_be_is_one_sentence(self, keys, sentence):
        with pytest.raises(InputError, match=sentence):
            parse.parse({"organism": keys})

    def test_the_learning_rate_rises_stays_and_falls_to_nothing(self):
        recipe = Recipe(steps=100, warm_up=10, cool_down=0.4, learning_rate=1.0)
        rates = [learning_rate(recipe, step) for step in range(100)]
        assert rates[4] == pytest.approx(0.5)
        assert rates[9:60] == [1.0] * 51
        assert rates[80] == pytest.approx(0.5)
        assert 0 < rates[99] < 0.05


class TestMaterial:
    def test_an_architecture_that_cannot_hold_the_longest_episode(self, texts):
        small = Recipe.model_validate({**TINY, "architecture": {**TINY["architecture"], "context": 128}})
        with pytest.raises(InputError, match=r"an episode of 6 demonstrations can have \d+ tokens.* has only 128; increase"):
            Material.build(small, texts)

    def test_no_drawn_episode_is_longer_than_was_reckoned(self, texts):
        """Check that the context length in the error message is sufficient and that one token less is refused."""
        small = Recipe.model_validate({**TINY, "architecture": {**TINY["architecture"], "context": 16}})
        with pytest.raises(InputError) as caught:
            Material.build(small, texts)
        needed = int(str(caught.value).split("can have ")[1].split()[0])
        fits = Recipe.model_validate({**TINY, "architecture": {**TINY["architecture"], "context": needed}})
        trainer = Trainer(fits, Material.build(fits, texts))
        lengths = [trainer.sampler(16, 6, trainer.difficulties[-1]).length.max().item() for _ in range(20)]
        assert max(lengths) <= needed
        tight = Recipe.model_validate({**TINY, "architecture": {**TINY["architecture"], "context": needed - 1}})
        with pytest.raises(InputError):
            Material.build(tight, texts)

    def test_a_corpus_of_one_class(self, recipe, texts):
        one = texts["sst2"][texts["sst2"]["label"] == 1]
        with pytest.raises(InputError, match=r"corpus of sst2: .* have 1 classes \(Positive\), but at least 2 are needed"):
            Material.build(recipe, {**texts, "sst2": one})

    def test_a_corpus_without_fillers(self, recipe):
        rows = [("train", i, text, label) for label, word in enumerate(("good", "bad")) for i, text in enumerate([word] * 9)]
        few = pd.DataFrame(rows, columns=["split", "index", "text", "label"])
        with pytest.raises(InputError, match=r"the training texts of sst2 contain no filler words .*; add training texts"):
            Material.build(recipe, {"sst2": few})

    def test_training_texts_that_are_test_texts_or_repeated_are_not_trained_on(self, recipe, texts, material):
        table = texts["sst2"]
        train = table[table["split"] == "train"]
        leaked = train.head(40).assign(split="test")
        more = Material.build(recipe, {**texts, "sst2": pd.concat([table, train.tail(50), leaked])})
        mine = [i for i, name in enumerate(material.bank.names) if name.startswith("sst2/")]
        short = [len(material.tokenizer(" " + text).input_ids) <= recipe.episodes.longest_text for text in leaked["text"]]
        assert int(material.bank.text_count[mine].sum()) - int(more.bank.text_count[mine].sum()) == sum(short) > 0

    def test_texts_that_are_too_long_are_left_out(self, recipe, texts, material):
        assert int(material.bank.text_length.max()) <= recipe.episodes.longest_text
        short = recipe.model_copy(update={"episodes": recipe.episodes.model_copy(update={"longest_text": 3})})
        with pytest.raises(InputError, match=r"at most 3 tokens have 0 classes \(none\)"):
            Material.build(short, texts)

    def test_a_corpora_table_named_after_no_task(self, tmp_path, corpora):
        shutil.copy(corpora[0], tmp_path / "mine.parquet")
        with pytest.raises(InputError, match="the file name is not a task"):
            training.read_corpora([tmp_path / "mine.parquet"])


class TestLosses:
    def test_an_untrained_model_guesses_among_the_shown_labels(self, recipe, material):
        trainer = Trainer(recipe, material)
        model = trainer.model
        with torch.no_grad():
            model.lm_head.weight.zero_()
            episodes = trainer.sampler(40, 20, trainer.difficulties[0], classes=(2, 2), one_of_each_first=1.0)
            terms = losses(
                model,
                episodes,
                material.label_pool,
                material.label_weight,
                0.5,
                torch.Generator().manual_seed(0),
            )
        assert terms.matching.item() == pytest.approx(math.log(2), rel=1e-5)
        for term in (terms.first_seen, terms.answer, terms.text):
            assert term.item() == pytest.approx(math.log(len(material.tokenizer)), rel=1e-5)

    def test_first_seen_asks_for_the_frequencies_of_the_words_not_used_yet(self, recipe, material):
        """Check that the first label's loss is the entropy of the frequencies if the logits are exactly their logarithms."""
        trainer = Trainer(recipe, material)
        model = trainer.model
        weight = material.label_weight.double() / material.label_weight.double().sum()
        with torch.no_grad():
            # All features are 1, so that the head sets the logits to the log frequencies. All other tokens are impossible.
            model.model.norm.weight.zero_()
            model.model.norm.register_forward_hook(lambda module, args, output: torch.ones_like(output))
            head = torch.full_like(model.lm_head.weight, -1e4 / recipe.architecture.width)
            head[material.label_pool] = (weight.log() / recipe.architecture.width).float()[:, None]
            model.lm_head.weight.copy_(head)
            episodes = trainer.sampler(30, 1, trainer.difficulties[0])
            terms = losses(model, episodes, material.label_pool, material.label_weight, 0.5, torch.Generator())
        assert terms.first_seen.item() == pytest.approx(-(weight * weight.log()).sum().item(), rel=1e-4)


class TestRun:
    def test_it_leaves_checkpoints_that_load_and_a_table(self, trained, recipe):
        steps = [training.checkpoint_step(folder) for folder in sorted(trained["checkpoints"].iterdir())]
        assert steps == recipe.checkpoint_steps()
        for folder in trained["checkpoints"].iterdir():
            model = AutoModelForCausalLM.from_pretrained(folder)
            assert len(AutoTokenizer.from_pretrained(folder)) == model.config.vocab_size
        table, about = artifacts.read(trained["table"], "training")
        assert table["step"].tolist() == [50, 60]
        assert table["rung"].tolist()[-1] == 2
        duplicates = {"texts": 601, "duplicates": 0, "dropped": False}
        assert about["corpus"] == {"source": "builtin", "seed": 0, "test_duplicates": duplicates}
        assert not trained["work"].exists()
        facts = training.read_facts(trained["facts"])
        assert facts["steps"] == 60
        assert facts["device"] == "cpu"
        assert facts["tokens"] > facts["episodes"] > 60

    def test_the_same_recipe_gives_the_same_bytes_and_another_seed_others(self, trained, tmp_path, recipe, corpora):
        again = run(tmp_path / "again", recipe, corpora)
        other = run(tmp_path / "other", recipe.model_copy(update={"seed": 1}), corpora)
        name = f"{training.checkpoint_name(60)}/model.safetensors"
        assert (again["checkpoints"] / name).read_bytes() == (trained["checkpoints"] / name).read_bytes()
        assert (other["checkpoints"] / name).read_bytes() != (trained["checkpoints"] / name).read_bytes()

    def test_training_changes_every_weight(self, trained):
        first, last = (
            load_file(trained["checkpoints"] / training.checkpoint_name(step) / "model.safetensors") for step in (0, 60)
        )
        assert all(not torch.equal(first[name], last[name]) for name in first)

    @pytest.mark.parametrize("stopped_at", [1, 30, 51])
    def test_stopped_anywhere_it_goes_on_to_the_same_bytes(
        self, trained, tmp_path, recipe, corpora, monkeypatch, caplog, stopped_at
    ):
        steps = Trainer.advance

        def advance(self):
            if self.progress.step == stopped_at:
                raise KeyboardInterrupt
            return steps(self)

        monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Trainer, "advance", advance)
            run(tmp_path, recipe, corpora)
        assert not (tmp_path / "checkpoints").exists()
        with caplog.at_level("INFO"):
            again = run(tmp_path, recipe, corpora)
        assert f"resuming after step {stopped_at}" in caplog.text
        for folder in trained["checkpoints"].iterdir():
            for file in folder.iterdir():
                assert (again["checkpoints"] / folder.name / file.name).read_bytes() == file.read_bytes()
        assert artifacts.read(again["table"], "training")[0].equals(artifacts.read(trained["table"], "training")[0])

    def _stopped(self, tmp_path, recipe, corpora, monkeypatch):
        """Stop a training after ten steps and return the path of its saved state."""
        monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
        steps = Trainer.advance

        def advance(self):
            if self.progress.step == 10:
                raise KeyboardInterrupt
            return steps(self)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Trainer, "advance", advance)
            run(tmp_path, recipe, corpora)
        return tmp_path / "unfinished" / training.STATE

    @pytest.mark.parametrize("damage", ["cut", "empty", "garbage"])
    def test_a_damaged_state_is_one_sentence(self, tmp_path, recipe, corpora, monkeypatch, damage):
        state = self._stopped(tmp_path, recipe, corpora, monkeypatch)
        whole = state.read_bytes()
        state.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "garbage": b"\xff" * 1000}[damage])
        with pytest.raises(InputError, match=r"state\.safetensors.* is corrupted; delete the folder"):
            run(tmp_path, recipe, corpora)

    def test_the_state_of_another_recipe_is_not_used(self, trained, tmp_path, recipe, corpora, monkeypatch, caplog):
        self._stopped(tmp_path, recipe.model_copy(update={"seed": 1}), corpora, monkeypatch)
        with caplog.at_level("INFO"):
            again = run(tmp_path, recipe, corpora)
        assert "belongs to another training run" in caplog.text
        name = f"{training.checkpoint_name(60)}/model.safetensors"
        assert (again["checkpoints"] / name).read_bytes() == (trained["checkpoints"] / name).read_bytes()

    def test_a_state_that_has_lost_its_checkpoints_is_not_used(self, tmp_path, recipe, corpora, monkeypatch, caplog):
        state = self._stopped(tmp_path, recipe, corpora, monkeypatch)
        shutil.rmtree(state.parent / training.CHECKPOINTS / training.checkpoint_name(0))
        with caplog.at_level("INFO"):
            again = run(tmp_path, recipe, corpora)
        assert "lacks earlier checkpoints" in caplog.text
        assert len(list(again["checkpoints"].iterdir())) == len(recipe.checkpoint_steps())

    @pytest.mark.parametrize("name", ["work", "checkpoints"])
    def test_a_folder_of_someone_elses_is_not_replaced(self, tmp_path, recipe, corpora, name):
        mine = tmp_path / {"work": "unfinished"}.get(name, name)
        mine.mkdir()
        (mine / "thesis.tex").write_text("years of work")
        with pytest.raises(InputError, match=rf"--{name} .* contains thesis\.tex, which is not a file of a training run"):
            run(tmp_path, recipe, corpora)
        assert (mine / "thesis.tex").read_text() == "years of work"

    def test_a_step_that_shows_no_class_twice_is_no_fault(self, material):
        lonely = {**TINY["episodes"], "demonstrations": [2, 2], "demonstrations_per_step": 2, "one_of_each_first": 1.0}
        trainer = Trainer(Recipe.model_validate({**TINY, "episodes": lonely}), material)
        figures = [trainer.advance() for _ in range(10)]
        assert all(math.isfinite(value) for figure in figures for value in figure.values())
        assert figures[0]["matching"] == 0.0
        assert figures[0]["smoothed"] == 2 * trainer.recipe.curriculum.gate

    def test_a_rung_that_was_left_unpassed_is_counted(self, trained):
        assert training.read_facts(trained["facts"])["rungs"] == {"last": 3, "of": 3, "left unpassed": 2}

    def test_a_loss_that_is_no_number_is_one_sentence(self, tmp_path, recipe, corpora):
        wild = recipe.model_copy(update={"learning_rate": 1e30})
        with pytest.raises(InputError, match=r"non-finite loss at step \d+; decrease organism.learning_rate"):
            run(tmp_path, wild, corpora)

    def test_the_command_says_a_fault_in_one_sentence(self, tmp_path, corpora, capsys):
        places = [f"--{name}={tmp_path / name}" for name in ("work", "checkpoints", "facts", "out")]
        arguments = ["training", "--corpora", *map(str, corpora), *places, "--device", "cpu"]
        assert commands.main([*arguments, "--recipe", "{stepps: 3}"]) == 1
        assert capsys.readouterr().err == (
            "icl-lens training: --recipe: unknown key 'organism.stepps' (= 3); did you mean 'steps'? (known: "
            f"{', '.join(Recipe.model_fields)})\n"
        )


@pytest.fixture(scope="module")
def measured(trained, corpora, tmp_path_factory):
    out = trained["table"].with_name("evaluation.parquet")
    evaluation.run(trained["checkpoints"], trained["facts"], corpora, out, prompts=24, curve_prompts=12)
    return out


class TestEvaluation:
    def test_every_measure_of_the_last_checkpoint_and_few_of_the_others(self, measured, recipe):
        table, about = artifacts.read(measured, "evaluation")
        assert sorted(table["step"].unique()) == recipe.checkpoint_steps()
        last, first = (table[table["step"] == step] for step in (60, 0))
        assert set(about["checkpoints"]) == {training.checkpoint_name(step) for step in recipe.checkpoint_steps()}
        assert (last["prompts"] == 24).all()
        assert (first["prompts"] == 12).all()
        cells = set(zip(last["measure"], last["on"], last["classes"], last["shots"], strict=True))
        assert len(cells) == len(last)
        for shots in (1, 2, 4):
            assert ("fresh label words", "held-out texts", 6, shots) in cells
            assert ("paper's label words", "trec", 6, shots) in cells
        assert ("fresh label words, no demonstrations", "held-out texts", 2, 0) in cells
        assert ("fresh label words, swapped", "held-out texts", 4, 1) in cells
        # Three plain-text topics are too few for a prompt of four classes.
        on = "topics seen as plain text only"
        assert {c[2] for c in cells if c[1] == on} == {2}

    def test_the_accuracy_is_that_of_the_prompts_as_text(self, trained, recipe, texts, material):
        """Compare the predictions with those for prompts built as strings.

        The evaluation runs prompts in batches. The comparison runs one prompt at a time, encoded with only the tokenizer.
        """
        folder = trained["checkpoints"] / training.checkpoint_name(60)
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
        measures = evaluation.Evaluation(model, material, texts, prompts=30)
        prompts = measures.paper_task("trec", 1)
        predicted, _ = evaluation.class_predictions(model, material.templates, prompts)
        words = [[tokenizer.decode([i]) for i in row] for row in prompts.class_labels.tolist()]
        for b in range(30):
            parts = [tokenizer.decode(t[:n]) for t, n in zip(prompts.text[b], prompts.text_length[b], strict=True)]
            demos = [
                f"Question:{text}\nAnswer Type:{words[b][c]}"
                for text, c in zip(parts, prompts.classes[b].tolist(), strict=True)
            ]
            text = "\n".join([*demos[:-1], f"Question:{parts[-1]}\nAnswer Type:"])
            with torch.no_grad():
                logits = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0, -1]
            assert logits[prompts.class_labels[b]].argmax().item() == predicted[b].item()

    @pytest.mark.parametrize("shots", [1, 2])
    def test_queries_are_of_all_classes_in_equal_numbers_and_demonstrations_too(self, texts, material, shots):
        measures = evaluation.Evaluation(None, material, texts, prompts=62)
        prompts = measures.paper_task("trec", shots)
        words = prompts.class_labels.gather(1, prompts.gold[:, None]).squeeze(1)
        assert sorted(words.unique(return_counts=True)[1].tolist()) == [10, 10, 10, 10, 11, 11]
        assert (torch.nn.functional.one_hot(prompts.classes[:, :-1]).sum(1) == shots).all()
        assert prompts.gold.unique().tolist() == list(range(6))

    def test_queries_are_test_texts_and_demonstrations_are_not(self, trained, texts, material):
        measures = evaluation.Evaluation(None, material, texts, prompts=40)
        test = {t for t in texts["sst2"].loc[texts["sst2"]["split"] == "test", "text"]}
        prompts = measures.paper_task("sst2", 2)
        for row, lengths in zip(prompts.text, prompts.text_length, strict=True):
            said = [material.tokenizer.decode(t[:n])[1:] for t, n in zip(row, lengths, strict=True)]
            assert said[-1] in test
            assert not set(said[:-1]) & test

    def test_prompts_that_do_not_fit_are_left_out(self, trained, texts, material, caplog):
        folder = trained["checkpoints"] / training.checkpoint_name(60)
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        model.config.max_position_embeddings = 60
        measures = evaluation.Evaluation(model, material, texts, prompts=12)
        with caplog.at_level("INFO"):
            assert measures.measure("m", "trec", 1, measures.paper_task("trec", 1)) is None
        assert "m, trec, 1 per class: 12 of 12 prompts are longer than the context and are excluded" in caplog.text
        prompts = measures.paper_task("trec", 1)
        length = prompt_lengths(material.templates, prompts.template, prompts.text_length)
        model.config.max_position_embeddings = int(length.median())
        some = measures.measure("m", "trec", 1, prompts)
        assert some.prompts == int((length <= length.median()).sum()) < 12

    def test_a_damaged_checkpoint_and_one_of_another_training_are_one_sentence(self, trained, corpora, tmp_path, recipe):
        copy = tmp_path / "checkpoints"
        shutil.copytree(trained["checkpoints"], copy)
        weights = copy / training.checkpoint_name(0) / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(InputError, match=r"step-000000"):
            evaluation.run(copy, trained["facts"], corpora, tmp_path / "out.parquet", prompts=2, curve_prompts=2)
        shutil.rmtree(copy / training.checkpoint_name(60))
        with pytest.raises(InputError, match="lacks the last checkpoint \\(step 60\\)"):
            evaluation.run(copy, trained["facts"], corpora, tmp_path / "out.parquet")
        facts = json.loads(trained["facts"].read_text())
        facts["recipe"]["seed"] = 7
        (tmp_path / "other.json").write_text(json.dumps(facts))
        with pytest.raises(InputError, match=r"the tokenizer of .* differs from that of"):
            evaluation.run(trained["checkpoints"], tmp_path / "other.json", corpora, tmp_path / "out.parquet")

    def test_too_few_test_texts_for_a_cell_leave_it_out(self, trained, texts, material):
        table = texts["sst2"]
        few = pd.concat([table[table["split"] == "train"], table[table["split"] == "test"].groupby("label").head(3)])
        measures = evaluation.Evaluation(None, material, {"sst2": few}, prompts=10)
        assert measures.fresh_labels(2, 2) is not None
        assert measures.fresh_labels(2, 4) is None
        one_class = few[(few["split"] == "train") | (few["label"] == 0)]
        assert evaluation.Evaluation(None, material, {"sst2": one_class}, prompts=10).paper_task("sst2", 1) is None

    def test_other_texts_than_those_of_the_training_are_refused(self, trained, corpora, tmp_path):
        tables.write_builtin("sst2", 5, tmp_path / "corpora" / "sst2.parquet")
        with pytest.raises(InputError, match="lacks the texts of sst2 that the model was trained on"):
            evaluation.run(
                trained["checkpoints"], trained["facts"], [tmp_path / "corpora/sst2.parquet", corpora[1]], tmp_path / "out"
            )


class TestCard:
    def test_the_folder_is_the_last_checkpoint_with_its_card(self, trained, measured, tmp_path):
        out = tmp_path / "model"
        card.write(trained["checkpoints"], trained["facts"], measured, out)
        last = trained["checkpoints"] / training.checkpoint_name(60)
        assert (out / "model.safetensors").read_bytes() == (last / "model.safetensors").read_bytes()
        said = json.loads((out / card.CARD).read_text())
        assert said["training"] == json.loads(trained["facts"].read_text())
        table = artifacts.read(measured, "evaluation")[0]
        assert pd.DataFrame(said["evaluation"]).equals(table[table["step"] == 60].drop(columns="step").reset_index(drop=True))
        assert (out / card.README).read_text() == card.render(said)
        assert AutoModelForCausalLM.from_pretrained(out).config.num_hidden_layers == 2

    def test_a_folder_of_someone_elses_is_not_replaced(self, trained, measured, tmp_path):
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(InputError, match=r"--folder .* contains thesis\.tex"):
            card.write(trained["checkpoints"], trained["facts"], measured, tmp_path)
        assert (tmp_path / "thesis.tex").exists()

    def test_measures_of_other_weights_are_refused(self, trained, measured, tmp_path):
        other = tmp_path / "checkpoints"
        shutil.copytree(trained["checkpoints"], other)
        shutil.copytree(other / training.checkpoint_name(0), other / training.checkpoint_name(60), dirs_exist_ok=True)
        with pytest.raises(InputError, match="belongs to other weights"):
            card.write(other, trained["facts"], measured, tmp_path / "model")
        assert not (tmp_path / "model").exists()

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"training": {"recipe": 1}}'])
    def test_facts_that_are_none_are_one_sentence(self, tmp_path, content):
        path = tmp_path / "training.json"
        path.write_text(content)
        with pytest.raises(InputError, match="is not a facts file or card of a training run"):
            training.read_facts(path)
