import pandas as pd

from icl_lens.statistics.answers import accuracy, unsolved_note
from icl_lens.statistics.resampling import OVER_TASKS


def test_accuracy_stands_beside_the_commonest_class_and_tasks_count_alike():
    rows = [("a", 0, 0), ("a", 0, 0), ("a", 0, 0), ("a", 1, 1), ("b", 1, 0), ("b", 0, 0)]
    table = pd.DataFrame([{"model": "m", "set": "s", "task": t, "gold": g, "prediction": p} for t, g, p in rows])
    found = accuracy(table).set_index("task")
    assert found["accuracy"].to_dict() == {"a": 1, "b": 0.5, OVER_TASKS: 0.75}
    assert found["commonest_class"].to_dict() == {"a": 0.75, "b": 0.5, OVER_TASKS: 0.625}
    assert unsolved_note(accuracy(table), "So there.") == ["Accuracy is at or below the majority baseline: b (m). So there."]
    assert unsolved_note(accuracy(table[table["task"] == "a"]), "So there.") == []
