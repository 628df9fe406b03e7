from icl_lens.artifacts import hashes


def test_an_artifacts_name_is_its_place_in_the_results_tree():
    study = "/home/me/studies/results/studies/gpt2/sst2/fresh-1shot/icl.parquet"
    name = hashes.artifact_name
    assert name("/home/me/studies/results/prompts/sst2/x.parquet", study) == "prompts/sst2/x.parquet"
    assert name("results/figures/figure_3.csv", "results/figures/figure_3.json") == "figures/figure_3.csv"
    assert name("/home/me/prompts/own.parquet", study) == "own.parquet"
    assert name("/home/me/prompts/own.parquet", "/home/me/icl.parquet") == "own.parquet"


def test_the_hash_of_files_tells_their_names_and_content(tmp_path):
    for name, text in (("a", "1"), ("b", "2")):
        (tmp_path / name).write_text(text)
    first = hashes.files_hash([tmp_path / "a", tmp_path / "b"])
    assert hashes.files_hash([tmp_path / "b", tmp_path / "a"]) == first
    (tmp_path / "b").write_text("3")
    assert hashes.files_hash([tmp_path / "a", tmp_path / "b"]) != first
