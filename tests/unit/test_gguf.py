"""Tests of GGUF files as a source of models.

The tests write the files by hand where no package is needed, otherwise with the package gguf.
"""

import json
import logging
import shlex
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from icl_lens.artifacts import hashes
from icl_lens.cli.commands import main
from icl_lens.errors import InputError
from icl_lens.hub import converted, fetch, fetched, gguf_conversion, gguf_files, packages
from icl_lens.hub.checkpoints import checkpoint_files
from icl_lens.models import loading
from icl_lens.report import figures

from ..conftest import llama_like
from ..families import tiny

needs_packages = pytest.mark.skipif(
    any(find_spec(name) is None for name in gguf_conversion.PACKAGES),
    reason="the optional package gguf is not installed",
)

ARCHITECTURE = ("general.architecture", "llama")
TOKENIZER = ("tokenizer.ggml.tokens", ["a", "b", "c"])


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def written(path, pairs=(ARCHITECTURE, ("general.file_type", 15), TOKENIZER), tensors=((12, (256, 4)),), version=3):
    """Write a GGUF file by hand.

    The values of ``pairs`` are str, int or list of str. ``tensors`` gives (type, shape), and the data of each tensor is zeros.
    """
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    for key, value in pairs:
        if isinstance(value, str):
            head += text(key) + struct.pack("<I", 8) + text(value)
        elif isinstance(value, int):
            head += text(key) + struct.pack("<II", 4, value)
        else:
            head += text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    offset = 0
    for number, (kind, shape) in enumerate(tensors):
        head += text(f"t{number}") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        _, weights, size = gguf_files.TENSOR_TYPES.get(kind, ("", 1, 1))
        offset += -(-torch.Size(shape).numel() // weights * size // 32) * 32
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(offset))
    return path


def test_a_header_says_what_the_file_holds(tmp_path):
    header = gguf_files.check(written(tmp_path / "a.gguf"))
    assert (header.architecture, header.quantisation, header.parameters, header.entries) == ("llama", "Q4_K_M", 1024, 3)
    # If the header does not name the quantisation, it is read from the types of the matrices. Vectors are not counted.
    unnamed = written(
        tmp_path / "b.gguf", (ARCHITECTURE, TOKENIZER), ((0, (7,)), (14, (256, 2)), (12, (256, 4)), (12, (256, 4)))
    )
    assert gguf_files.check(unnamed).quantisation == "Q4_K and Q6_K"


def test_a_copy_without_the_vocabulary_is_the_same_otherwise(tmp_path):
    pairs = (ARCHITECTURE, TOKENIZER, ("llama.block_count", 2), ("tokenizer.ggml.bos_token_id", 1), ("general.file_type", 7))
    path = written(tmp_path / "a.gguf", pairs, ((0, (256, 4)), (0, (5,))))
    content = path.read_bytes()
    path.write_bytes(content[:-32] + b"\x01" * 32)
    gguf_files.write_without_vocabulary(path, gguf_files.check(path), tmp_path / "b.gguf")
    copy = (tmp_path / "b.gguf").read_bytes()
    as_written = written(tmp_path / "c.gguf", (pairs[0], *pairs[2:]), ((0, (256, 4)), (0, (5,)))).read_bytes()
    assert copy == as_written[:-32] + b"\x01" * 32


def cut(path, count):
    path.write_bytes(path.read_bytes()[:-count])
    return path


BAD = {
    "no such file": (lambda path: path, "does not exist"),
    "a folder": (lambda path: path.mkdir() or path, "is a folder, not a GGUF file"),
    "not a GGUF": (
        lambda path: path.write_text("git-lfs") and path,
        "is not a GGUF file: it does not begin with",
    ),
    "empty": (lambda path: path.touch() or path, "is not a GGUF file"),
    "data cut short": (lambda path: cut(written(path), 40), r"is truncated \(expected [\d,]+ bytes, found [\d,]+\)"),
    "header cut short": (lambda path: cut(written(path), 700), r"is truncated \(the header is incomplete\)"),
    "version 1": (lambda path: written(path, version=1), "has version 1, but icl-lens reads only versions 2 and 3"),
    "no architecture": (lambda path: written(path, (TOKENIZER,)), "is not a model: general.architecture is missing"),
    "no weights": (lambda path: written(path, tensors=()), "contains only a header and no weights"),
    "no tokenizer": (lambda path: written(path, (ARCHITECTURE,)), "has no tokenizer"),
    "a part": (
        lambda path: written(path, (ARCHITECTURE, TOKENIZER, ("split.count", 3))),
        "is one of 3 parts of a model; merge",
    ),
    "an unknown type": (lambda path: written(path, tensors=((99, (4, 4)),)), "tensor t0 has the unsupported ggml type 99"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_file_that_cannot_be_used_is_one_sentence_and_makes_nothing(fault, tmp_path, capsys):
    make, sentence = BAD[fault]
    path = make(tmp_path / "bad.gguf")
    with pytest.raises(InputError, match=sentence):
        gguf_files.check(path)
    out = tmp_path / "made" / "converted.json"
    assert main(["convert-gguf", "--gguf", str(path), "--out", str(out)]) == 1
    told = capsys.readouterr().err.strip()
    assert told.startswith("icl-lens convert-gguf: ")
    assert "\n" not in told
    assert "bad.gguf" in told
    assert not list(out.parent.iterdir())


def test_without_the_packages_the_command_that_installs_them_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    path = written(tmp_path / "a.gguf")
    assert main(["convert-gguf", "--gguf", str(path), "--out", str(tmp_path / "made" / "converted.json")]) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "needs gguf, which is not installed" in told
    command = told.rpartition("run `")[2].rstrip("`")
    python, *words = shlex.split(command)
    assert Path(python).is_file()
    assert Path(words[4]).is_file(), "the command works from any working folder"
    assert words[:4] + words[5:] == ["-m", "pip", "install", "-c", "gguf"]
    assert not (tmp_path / "made" / "config.json").exists()


def test_a_folder_or_path_of_a_gguf_file_alone_says_how_to_name_it(tmp_path):
    path = written(tmp_path / "a.gguf")
    with pytest.raises(InputError, match=rf"has no config.json, but a GGUF file; set `gguf: {path}` instead of path"):
        checkpoint_files(tmp_path)
    with pytest.raises(InputError, match="is a GGUF file, not a model folder; set `gguf: "):
        checkpoint_files(path)
    with pytest.raises(InputError, match="is a file, not a model folder; convert it with `icl-lens convert-gguf`"):
        fetch.resolve(str(path))


def test_files_of_one_name_in_two_folders_do_not_share_a_folder(tmp_path):
    folders = {fetch.local_gguf_folder("downloads", tmp_path / place / "a.gguf") for place in ("x", "y", "x/../x")}
    assert len(folders) == 2
    of_hub = fetch.gguf_folder("downloads", "own/tiny", None, "sub/a.gguf")
    assert of_hub.as_posix() == "downloads/gguf/own--tiny/main/sub--a.gguf"


def test_a_file_that_is_not_what_was_fetched_is_told(tmp_path):
    path = written(tmp_path / "a.gguf")
    facts = {"size": path.stat().st_size, "sha256": "0" * 64}
    record = fetched.Fetched("own/tiny", "main", "1" * 40, {"a.gguf": facts})
    (tmp_path / "fetched.json").write_text(record.text())
    with pytest.raises(InputError, match=r"a\.gguf differs from the fetched file \(its SHA-256 is [0-9a-f]{64}\); delete it"):
        gguf_conversion.convert(path, tmp_path / "converted" / "converted.json", tmp_path)
    assert not (tmp_path / "converted").exists()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return tiny("llama", len(llama_like()))


@pytest.fixture(scope="module")
def tiny_gguf(network, tmp_path_factory):
    """Return a GGUF file with a tiny Llama and its tokenizer, with matrices in Q8_0, made with the package gguf."""
    gguf = pytest.importorskip("gguf")
    shape, tokenizer = network.config, llama_like()
    path = tmp_path_factory.mktemp("gguf") / "tiny-q8.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_rope_freq_base(shape.rope_parameters["rope_theta"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    vocabulary = tokenizer.get_vocab()
    writer.add_tokenizer_model("llama")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.get))
    writer.add_token_scores([-float(number) for number in range(len(vocabulary))])
    writer.add_token_types([3 if number in (0, 1, 2) else 1 for number in range(len(vocabulary))])
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, shape.num_hidden_layers)
    for name, tensor in network.state_dict().items():
        values = tensor
        for part, heads in (("q_proj", shape.num_attention_heads), ("k_proj", shape.num_key_value_heads)):
            if part in name:  # ggml interleaves the halves of each head
                values = tensor.reshape(heads, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        kind = gguf.GGMLQuantizationType.Q8_0 if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        packed = gguf.quantize(values.numpy(), kind)
        writer.add_tensor(names.get_name(name, (".weight",)), packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def made(tiny_gguf, tmp_path):
    out = tmp_path / "made" / "converted.json"
    gguf_conversion.convert(tiny_gguf, out)
    return out.parent


@needs_packages
def test_a_converted_file_is_the_model_and_its_tokenizer(tiny_gguf, network, made):
    record = converted.read(made)
    assert (record.gguf, record.architecture, record.quantisation) == ("tiny-q8.gguf", "llama", "Q8_0")
    assert record.sha256 == hashes.file_hash(tiny_gguf)
    assert {path.name for path in made.iterdir() if not path.name.startswith(".")} == {*record.files, "converted.json"}
    weights = load_file(made / "model.safetensors")
    for name, tensor in network.state_dict().items():
        if name in weights or name != "lm_head.weight":
            assert weights[name].dtype == torch.float32
            assert (weights[name] - tensor).abs().max() <= tensor.abs().max() / 127, name
    loaded = loading.load(made)
    assert loaded.name == "tiny-q8"
    assert loaded.facts["gguf"] == {"file": "tiny-q8.gguf", "sha256": record.sha256, "quantisation": "Q8_0"}
    assert figures.weights(loaded.facts) == "Q8_0 weights, dequantised"
    # transformers gives the same results when it reads the GGUF file directly.
    folder = {"pretrained_model_name_or_path": tiny_gguf.parent, "gguf_file": tiny_gguf.name}
    direct = AutoModelForCausalLM.from_pretrained(**folder, dtype=torch.float32)
    text = "Review: a fine film\nSentiment: Positive\n\n"
    ids = AutoTokenizer.from_pretrained(**folder)(text)["input_ids"]
    assert loaded.tokenizer(text)["input_ids"] == ids == llama_like()(text)["input_ids"]
    with torch.inference_mode():
        assert torch.equal(loaded.network(torch.tensor([ids])).logits, direct(torch.tensor([ids])).logits)
    assert loaded.network.config.vocab_size == direct.config.vocab_size
    theirs, ours = direct.config.to_dict(), loaded.network.config.to_dict()
    differing = {key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key)}
    assert differing <= {"quantization_config", "_name_or_path", "architectures", "transformers_version", "dtype"}


@needs_packages
def test_a_conversion_is_not_repeated_unless_the_file_or_a_result_changed(tiny_gguf, made, caplog, monkeypatch):
    out = made / "converted.json"
    before = out.read_bytes()
    monkeypatch.setattr(gguf_conversion, "_convert", lambda *arguments: pytest.fail("converted again"))
    out.unlink()  # Snakemake also deletes the output before it runs a job
    with caplog.at_level(logging.INFO):
        gguf_conversion.convert(tiny_gguf, out)
    assert "is already converted" in caplog.text
    assert out.read_bytes() == before
    monkeypatch.undo()
    weights = made / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    gguf_conversion.convert(tiny_gguf, out)
    assert out.read_bytes() == before
    other = made.parent / "tiny-q8.gguf"
    content = bytearray(tiny_gguf.read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    gguf_conversion.convert(other, out)
    assert converted.read(made).sha256 != json.loads(before)["sha256"]


@needs_packages
@pytest.mark.parametrize("last", ["_write_tokenizer", "_move", "replace"])
def test_a_conversion_that_is_killed_leaves_no_model_and_the_same_command_starts_it_again(
    tiny_gguf, tmp_path, monkeypatch, last
):
    out = tmp_path / "made" / "converted.json"

    def killed(*arguments):
        raise KeyboardInterrupt

    if last == "replace":  # interrupt the conversion while it moves the files
        moved = []

        def replace(source, target):
            if target.parent == out.parent:
                moved.append(target)
                if len(moved) == 3:
                    raise KeyboardInterrupt
            return source.rename(target)

        monkeypatch.setattr("pathlib.Path.replace", replace)
    else:
        monkeypatch.setattr(gguf_conversion, last, killed)
    with pytest.raises(KeyboardInterrupt):
        gguf_conversion.convert(tiny_gguf, out)
    monkeypatch.undo()
    assert not out.exists()
    with pytest.raises(InputError):
        loading.load(out.parent)
    gguf_conversion.convert(tiny_gguf, out)
    assert loading.load(out.parent).facts["gguf"]["file"] == tiny_gguf.name
    assert not (out.parent / ".partial").exists()


@needs_packages
def test_what_cannot_be_converted_is_one_sentence(tiny_gguf, tmp_path, made):
    out = tmp_path / "other" / "converted.json"
    content = tiny_gguf.read_bytes()
    strange = tmp_path / "strange.gguf"
    strange.write_bytes(content.replace(b"llama", b"lxxma"))
    with pytest.raises(InputError, match=r"strange\.gguf: transformers [\d.]+ cannot convert it \(architecture 'lxxma'; "):
        gguf_conversion.convert(strange, out)
    assert not (out.parent / "config.json").exists()
    # The conversion neither mixes the files of another model in the folder with its own nor overwrites them.
    (out.parent / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"also contains model\.safetensors, which no conversion wrote"):
        gguf_conversion.convert(tiny_gguf, out)
    (made / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is missing; delete .*converted\.json"):
        loading.load(made)


def test_the_types_are_those_of_the_package():
    gguf = pytest.importorskip("gguf", reason="the optional package gguf is not installed")
    for kind, (name, weights, size) in gguf_files.TENSOR_TYPES.items():
        assert gguf.GGMLQuantizationType(kind).name == name
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)] == (weights, size)
    for kind, name in gguf_files.FILE_TYPES.items():
        assert gguf.LlamaFileType(kind).name.removeprefix("MOSTLY_").removeprefix("ALL_") == name
