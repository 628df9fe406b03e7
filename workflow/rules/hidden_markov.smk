# Kernel regression beside the exact posterior on random hidden Markov models: no texts, no language model.


rule hidden_markov:
    output:
        "<results>/synthetic/hidden_markov.parquet",
    log:
        "<logs>/synthetic/hidden_markov.log",
    benchmark:
        "<benchmarks>/synthetic/hidden_markov.jsonl"
    conda:
        "../../envs/icl-lens.yaml"
    threads: 1
    params:
        code=code_of("icl_lens.hidden_markov"),
        settings=CONFIG.studies.hidden_markov.model_dump_json(),
    message:
        "Kernel regression on random hidden Markov models"
    shell:
        "icl-lens hidden-markov --settings {params.settings:q} --out {output:q} 2> {log:q}"
