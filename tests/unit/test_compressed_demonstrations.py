from dataclasses import replace

import numpy as np
import pytest
import torch

from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import last_logits
from icl_lens.prompts import chat
from icl_lens.prompts.positions import tokenize
from icl_lens.prompts.protocol import write_prompt
from icl_lens.studies.anchors import compressed_demonstrations
from icl_lens.tasks.task import TASKS

from ..conftest import byte_level, llama_like, sentencepiece_like, word_level
from ..families import CONTEXT, FAMILIES, tiny, unsupported
from ..prompts_table import prompts_table, shared_table
from ..reference.compression import compressed_logits, restarted_logits

# Largest difference from the plain reference, relative to the largest value, in float32.
TOLERANCE = 1e-4


def written(prompt, positions):
    """Return the concatenated characters of some token positions."""
    return "".join(prompt.text[start:end] for start, end in prompt.spans[positions])


@torch.inference_mode()
def logits_behind(model, prompts, compressed, budget=4096, **options):
    """Return the next-token logits of each prompt with compressed demonstrations, shape (N, V)."""
    found = {}
    for batch in compressed_demonstrations.batches(model, prompts, budget, compressed, **options):
        found |= dict(zip(batch.index, compressed_demonstrations.query_logits(model, batch, compressed), strict=True))
    return torch.stack([found[i] for i in sorted(found)])


@pytest.mark.parametrize("make", [byte_level, sentencepiece_like, llama_like])
@pytest.mark.parametrize("task", TASKS)
def test_kept_are_template_and_whole_label_lines_and_no_text(make, task):
    tokenizer = make()
    text, label = (piece.strip() for piece in TASKS[task].template.removesuffix("{label}").split("{text}"))
    for prompt in tokenize(prompts_table(task, shots=2), tokenizer):
        length, kept = compressed_demonstrations.query_start(prompt), compressed_demonstrations.kept_positions(prompt)
        words = [TASKS[task].label_words[c] for c in prompt.demo_labels]
        assert written(prompt, kept) == "".join(f"{text}\n{label}{word}\n" for word in words)
        assert written(prompt, np.arange(length)) == prompt.text[: prompt.query_span[0] - len(text) - 1]
        assert set(prompt.anchors) < set(kept)
        assert (prompt.ids[0] == tokenizer.bos_token_id) == (0 in kept and prompt.spans[0, 1] == 0)


def test_text_positions_are_each_demonstrations_own(tokenizer):
    for prompt in tokenize(prompts_table("trec"), tokenizer):
        for positions, (start, end) in zip(compressed_demonstrations.text_positions(prompt), prompt.text_spans, strict=True):
            assert written(prompt, positions).strip(" ") == prompt.text[start:end]


def test_a_blank_that_ends_a_text_is_text_and_a_template_may_begin_with_the_text(tokenizer):
    task = replace(TASKS["sst2"], template="{text} =>{label}")
    row = write_prompt(task, ["dull , slow ", "a fine film"], [0, 1], "empty")
    table = prompts_table(count=1).assign(**{name: [value] for name, value in row.items()})
    prompt = tokenize(table, tokenizer)[0]
    assert written(prompt, compressed_demonstrations.kept_positions(prompt)).replace(" ", "") == "=>Negative\n=>Positive\n"
    assert prompt.text[prompt.spans[compressed_demonstrations.query_start(prompt), 0] :] == "empty =>"


def test_newlines_that_no_token_stands_for_end_the_demonstrations_all_the_same():
    prompt = tokenize(prompts_table(count=1), word_level())[0]
    assert prompt.spans[compressed_demonstrations.query_start(prompt), 0] == prompt.query_span[0] - len("Review: ")


def test_what_a_chat_writes_before_the_prompt_is_kept(tokenizer):
    talking = byte_level()
    talking.chat_template = "{% for m in messages %}{{ m['role'] }}> {{ m['content'] }}{% endfor %}"
    prompt = tokenize(chat.wrap(prompts_table(count=1), talking), talking)[0]
    assert written(prompt, compressed_demonstrations.kept_positions(prompt)).startswith("user> Review:")


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_behind_kept_positions_agree_with_the_plain_reference(family, language_model):
    model = language_model(family)
    compressed_demonstrations.require_compressible(model)
    prompts = tokenize(shared_table(count=6), model.tokenizer)
    alike = [p for p in prompts if p.ids[:40].tolist() == prompts[0].ids[:40].tolist()]
    assert len(alike) > 1
    length = compressed_demonstrations.query_start(alike[0])
    for kept in (compressed_demonstrations.kept_positions(alike[0]), np.array([1, length // 2, length - 1])):
        compressed = compressed_demonstrations.compress(model, alike[0], kept)
        assert compressed.prefix.length == len(kept) < length
        found = logits_behind(model, alike, compressed)
        alone = logits_behind(model, alike, compressed, budget=1)
        plain = tiny(family, len(model.tokenizer))
        for prompt, *both in zip(alike, found, alone, strict=True):
            expected = compressed_logits(plain, prompt.ids.tolist(), length, kept.tolist())
            for logits in both:
                assert (logits - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("family", ["gpt2", "opt", "gptj", "gpt_neox", "llama"])
def test_positions_that_restart_agree_with_the_plain_reference(family, language_model):
    model = language_model(family)
    prompt = tokenize(prompts_table(count=1), model.tokenizer)[0]
    kept = compressed_demonstrations.kept_positions(prompt)
    compressed = compressed_demonstrations.compress(model, prompt, kept)
    restarted, continued = (logits_behind(model, [prompt], compressed, restarted=way)[0] for way in (True, False))
    plain = tiny(family, len(model.tokenizer))
    expected = restarted_logits(plain, prompt.ids.tolist(), len(compressed.ids), kept.tolist())
    assert (restarted - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert (restarted - continued).abs().max() > TOLERANCE * expected.abs().max()


def test_with_all_positions_kept_it_is_the_plain_run(language_model):
    model = language_model("llama")
    prompt = tokenize(prompts_table(count=1), model.tokenizer)[0]
    compressed = compressed_demonstrations.compress(model, prompt, np.arange(compressed_demonstrations.query_start(prompt)))
    plain = model.network(input_ids=torch.from_numpy(prompt.ids)[None]).logits[0, -1]
    assert torch.allclose(logits_behind(model, [prompt], compressed)[0], plain, atol=1e-5)


def test_a_window_hides_what_is_outside_by_the_true_positions(language_model):
    """Compare with a layer that counts cached keys: with few kept positions it attends beyond the sliding window."""
    model = language_model("mistral")
    prompt = tokenize(shared_table(count=1), model.tokenizer)[0]
    compressed = compressed_demonstrations.compress(model, prompt, compressed_demonstrations.kept_positions(prompt))
    batch = next(compressed_demonstrations.batches(model, [prompt], 4096, compressed))
    with torch.inference_mode():
        right = compressed_demonstrations.query_logits(model, batch, compressed)
        wrong = last_logits(model, batch)
    assert (right - wrong).abs().max() > TOLERANCE * right.abs().max()


@pytest.mark.parametrize("family", ["mamba", "bloom"])
def test_a_family_that_cannot_is_refused_by_name(family, tokenizer):
    network, _ = unsupported(family, len(tokenizer))
    model = LanguageModel(family, network, tokenizer, "float32", {})
    with pytest.raises(InputError, match=f"model {family}: the family {family} does not support compressed"):
        compressed_demonstrations.require_compressible(model)


def test_what_cannot_be_compressed_is_one_sentence(language_model):
    model = language_model("gpt2")
    prompts = tokenize(prompts_table(count=2), model.tokenizer)
    bare = replace(prompts[0], anchors=np.empty(0, dtype=np.int64))
    with pytest.raises(InputError, match="prompt 100 has no demonstration to compress"):
        compressed_demonstrations.kept_positions(bare)
    with pytest.raises(InputError, match="prompt 100 has 1 text_spans, but 2 demonstrations"):
        compressed_demonstrations.kept_positions(replace(prompts[0], text_spans=prompts[0].text_spans[:1]))
    compressed = compressed_demonstrations.compress(model, prompts[0], compressed_demonstrations.kept_positions(prompts[0]))
    with pytest.raises(InputError, match="prompt 101 does not begin with the compressed demonstrations"):
        list(compressed_demonstrations.batches(model, prompts, 4096, compressed))
    length = len(compressed.ids)
    long = replace(prompts[0], ids=np.concatenate([prompts[0].ids, np.ones(CONTEXT, dtype=np.int64)]))
    wanted = f"prompt 100: the query has {len(long.ids) - length} tokens, .* has room for only {CONTEXT - length}; shorten"
    with pytest.raises(InputError, match=wanted.replace("(", "\\(")):
        list(compressed_demonstrations.batches(model, [long], 4096, compressed))
    with pytest.raises(InputError, match=r"demonstrations of prompt 100 have .* but the context has only 8"):
        compressed_demonstrations.compress(language_model("gpt2", context=8), prompts[0], np.array([0]))


def test_positions_cannot_restart_where_windows_slide(language_model):
    model = language_model("gemma2")
    prompt = tokenize(prompts_table(count=1), model.tokenizer)[0]
    compressed = compressed_demonstrations.compress(model, prompt, compressed_demonstrations.kept_positions(prompt))
    with pytest.raises(InputError, match=r"model gemma2 has layers with a sliding window.* use only `continued`"):
        list(compressed_demonstrations.batches(model, [prompt], 4096, compressed, restarted=True))
