import pandas as pd
import pytest

from icl_lens.errors import InputError
from icl_lens.prompts import protocol
from icl_lens.prompts.sets import per_class
from icl_lens.studies.component_reweighting import templates
from icl_lens.studies.component_reweighting.settings import Settings, Wording
from icl_lens.tasks.task import TASKS

from ..prompts_table import prompts_table


def test_a_prompt_tells_its_template_and_written_by_it_is_itself():
    for task in TASKS:
        for row in prompts_table(task, shots=2).to_dict("records"):
            assert templates.recover_template(row) == TASKS[task].template
            again = templates.rewrite(row, TASKS[task].template, range(len(row["demo_labels"])))
            assert {**again, "shots": row["shots"]} == row


def test_a_prompt_in_another_template_has_the_same_texts_and_spans_that_fit():
    row = prompts_table("agnews").iloc[2].to_dict()
    other = templates.rewrite(row, "News: {text}\nTopic:{label}", [2, 0], query="so {text} it ends", gold=3)
    texts, _ = templates.prompt_texts(row)
    words = row["label_words"]
    first, second = (row["demo_labels"][d] for d in (2, 0))
    assert other["text"] == (
        f"News: {texts[2]}\nTopic:{words[first]}\nNews: {texts[0]}\nTopic:{words[second]}\nNews: so {{text}} it ends\nTopic:"
    )
    assert [other["text"][a:b] for a, b in other["label_spans"]] == [words[first], words[second]]
    assert templates.prompt_texts(other) == ([texts[2], texts[0]], "so {text} it ends")
    assert (other["gold"], other["demo_labels"]) == (3, [first, second])
    assert other["demo_indices"] == [2, 0]


def test_every_task_has_three_templates_and_a_contrast_that_differs_by_a_blank():
    for task in TASKS.values():
        found = templates.task_templates(task.name, task.template, {})
        assert list(found) == ["f1", "f2", "f3", "contrast"]
        assert found["f1"] == task.template
        assert found["contrast"].split() == task.template.split()
        assert len(set(found.values())) == 4


def test_an_unknown_task_gets_neutral_templates_and_given_ones_come_first():
    found = templates.task_templates("own", "Q: {text}\nA:{label}", {})
    assert found["contrast"] == "Q: {text}\n\nA:{label}"
    assert len(found) == 4
    given = {"own": Wording(templates=["{text} =>{label}"], contrast="Q: {text} A:{label}")}
    assert list(templates.task_templates("own", "Q: {text}\nA:{label}", given).values())[1:] == [
        "{text} =>{label}",
        "Q: {text} A:{label}",
    ]
    with pytest.raises(InputError, match=r"templates\.own contains the task's own template"):
        templates.task_templates("own", "Q: {text} A:{label}", given)


@pytest.mark.parametrize("template", ["{text}", "{text} {label}", "{text}{text}:{label}", "{label}: {text}"])
def test_what_is_no_template_is_refused(template):
    with pytest.raises(ValueError, match=r"must contain \{text\} exactly once and end with \{label\}"):
        Wording(templates=[template], contrast="{text}:{label}")
    with pytest.raises(ValueError, match="duplicate template"):
        Wording(templates=["{text}:{label}"], contrast="{text}:{label}")
    with pytest.raises(ValueError, match=r"budgets must be in ascending order without duplicates, got \[24, 12\]"):
        Settings(budgets=[24, 12])


def test_classes_take_turns():
    labels = [0, 0, 0, 1, 2, 1, 0]
    assert templates.alternate_classes(labels, [1, 2, 3, 4, 5, 6]) == [1, 3, 4, 2, 5, 6]
    assert templates.first_per_class(labels, 2) == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(("classes", "shots"), [(2, 2 + 12), (3, 1 + 8), (4, 1 + 6), (6, 1 + 4)])
def test_a_labelled_set_holds_four_demonstrations_and_24_texts_of_all_classes(classes, shots):
    assert protocol.Protocol.of("labelled-24").shots_per_class(classes) == shots
    assert per_class(4, classes) * classes in (3, 4, 6)


def test_a_labelled_set_begins_with_the_demonstrations_of_fewer_shots():
    texts = [
        {"split": split, "index": n, "text": f"{split} {n}", "label": n % 4}
        for split, size in (("train", 80), ("test", 5))
        for n in range(size)
    ]
    corpus = pd.DataFrame(texts)
    more, few = (protocol.build(TASKS["agnews"], corpus, name, [42], 3) for name in ("labelled-24", "shared-1shot"))
    assert more["query_index"].tolist() == few["query_index"].tolist()
    row = more.iloc[0]
    first = templates.first_per_class(row["demo_labels"], 1)
    assert [row["demo_indices"][place] for place in first] == few["demo_indices"].iloc[0]
    assert len(row["demo_indices"]) == 28
