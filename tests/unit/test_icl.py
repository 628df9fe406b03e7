import dataclasses

import numpy as np
import pytest
import torch

from icl_lens.prompts.positions import tokenize
from icl_lens.studies.anchors.icl import compute as icl

from ..families import FAMILIES
from ..prompts_table import prompts_table


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_one_prompt_at_a_time(language_model, tokenizer, family):
    model = language_model(family)
    prompts = tokenize(prompts_table("agnews", count=8), tokenizer)
    rows = icl.compute(model, prompts, 500)
    assert rows["prompt_id"].tolist() == [p.prompt_id for p in prompts]
    for row, prompt in zip(rows.to_dict("records"), prompts, strict=True):
        with torch.inference_mode():
            logits = model.network(torch.from_numpy(prompt.ids)[None]).logits[0, -1]
        log_probs = torch.log_softmax(logits[torch.from_numpy(prompt.label_ids)], dim=0)
        np.testing.assert_allclose(row["class_log_probs"], log_probs, atol=1e-4)
        assert row["prediction"] == int(log_probs.argmax())
        assert row["top_tokens"] == logits.topk(10).indices.tolist()
        assert row["gold"] == prompt.gold


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.05), (torch.bfloat16, 0.3)])
def test_half_precision_stays_near(language_model, tokenizer, family, dtype, tolerance):
    model = language_model(family)
    prompts = tokenize(prompts_table("agnews"), tokenizer)
    prompts += [dataclasses.replace(p, prompt_id=200 + p.prompt_id) for p in prompts]  # each shares its prefix with another
    full = np.stack(icl.compute(model, prompts, 500)["class_log_probs"])
    model.network.to(dtype)
    half = np.stack(icl.compute(model, prompts, 500)["class_log_probs"])
    assert model.shares_prefixes
    assert model.last_row_mode
    assert np.abs(half - full).max() <= tolerance
