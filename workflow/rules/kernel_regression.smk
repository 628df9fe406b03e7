# Kernel regression writes its attention map and its cosines of texts beside its table, and may read sentence encoders. (The
# name kernel_regression is that of the group of its items.)


ruleorder: kernel_regression_study > study


rule kernel_regression_study:
    input:
        prompts="<results>/prompts/{task}/{set}.parquet",
        model=lambda wildcards: model_files(wildcards.model),
        encoders=lambda wildcards: [
            file
            for folder in CONFIG.studies.kernel_regression.encoders.values()
            for file in encoder_files(folder)
        ],
    output:
        table="<results>/studies/{model}/{task}/{set}/kernel_regression.parquet",
        beside="<results>/studies/{model}/{task}/{set}/kernel_regression.safetensors",
    log:
        "<logs>/studies/{model}/{task}/{set}/kernel_regression.log",
    benchmark:
        "<benchmarks>/studies/{model}/{task}/{set}/kernel_regression.jsonl"
    conda:
        "../../envs/icl-lens.yaml"
    threads: model_job_threads
    resources:
        gpu=model_job_gpus,
    params:
        code=code_of("icl_lens.studies.kernel_regression"),
        path=lambda wildcards: model_folder(wildcards.model),
        model=lambda wildcards: model_options(wildcards.model),
        device=CONFIG.device,
        batch_tokens=CONFIG.batch_tokens,
        settings=lambda wildcards: settings_option("kernel_regression", wildcards.task),
    message:
        "kernel_regression of {wildcards.model} on {wildcards.task}, {wildcards.set}"
    shell:
        "icl-lens kernel-regression --model {params.path:q} --name {wildcards.model:q} --prompts {input.prompts:q} "
        "--device {params.device} {params.model} --batch-tokens {params.batch_tokens} {params.settings} "
        "--out {output.table:q} 2> {log:q}"
