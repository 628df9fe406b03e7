# One study of one model on one prompts file. A job loads one model once and runs all seeds. Each study has a rule with its name,
# because studies read different prompts and write different files.
#
# The functions in `input`, `output` and `params` take the study as a default argument, because the loop variable has its last
# value when Snakemake calls them.

for study in registry.studies().values():
    if study.reads is None:

        rule:
            name:
                registry.rule(study)
            output:
                table=f"<results>/synthetic/{study.name}.parquet",
            log:
                f"<logs>/synthetic/{study.name}.log",
            benchmark:
                f"<benchmarks>/synthetic/{study.name}.jsonl"
            conda:
                "../../envs/icl-lens.yaml"
            threads: 1
            resources:
                mem_mb=cluster_only(4_000),
                runtime=cluster_only(120),
            params:
                code=study_code(study),
                contract=study.contract,
                command=study.command,
                settings=settings_option(study.name, ""),
            message:
                f"Running {study.name}"
            shell:
                "icl-lens {params.command} {params.settings} --out {output.table:q} 2> {log:q}"

    else:

        rule:
            name:
                registry.shard_rule(study)
                if shard_count(study) > 1
                else registry.rule(study)
            input:
                **further_prompts(study),
                prompts="<results>/prompts/{task}/{set}.parquet",
                model=lambda wildcards: model_files(wildcards.model),
                adapter=lambda wildcards: adapter_files(wildcards.model),
                checkpoints=further_checkpoint_files(study),
            output:
                **tensor_outputs(study),
                table=f"<results>/{study_path(study)}.parquet",
            log:
                f"<logs>/{study_path(study)}.log",
            benchmark:
                f"<benchmarks>/{study_path(study)}.jsonl"
            wildcard_constraints:
                **prompts_constraints(study),
            group:
                study_group(study)
            conda:
                "../../envs/icl-lens.yaml"
            threads: workflow.cores if study.alone else model_job_threads
            resources:
                gpu=model_job_gpus,
                mem_mb=study_memory(study),
                runtime=study_minutes(study),
            params:
                code=study_code(study),
                contract=study.contract,
                path=lambda wildcards: model_folder(wildcards.model),
                content=lambda wildcards: model_content(wildcards.model),
                checkpoints=lambda wildcards, study=study: further_content(study),
                model=lambda wildcards: model_options(wildcards.model),
                device=CONFIG.device,
                batch_tokens=CONFIG.batch_tokens,
                command=study.command,
                further=further_options(study),
                settings=lambda wildcards, study=study: settings_option(
                    study.name, wildcards.task
                ),
                shard=lambda wildcards, study=study: shard_option(study, wildcards),
            message:
                f"Running {study.name}{shard_title(study)}: {{wildcards.model}}, {{wildcards.task}}, {{wildcards.set}}"
            shell:
                "icl-lens {params.command} --model {params.path:q} --name {wildcards.model:q} --prompts {input.prompts:q} "
                "{params.further} --device {params.device} {params.model} --batch-tokens {params.batch_tokens} "
                "{params.settings} {params.shard} --gpus {resources.gpu} --out {output.table:q} 2> {log:q}"

    if shard_count(study) > 1:

        rule:
            name:
                registry.rule(study)
            input:
                expand(
                    f"<results>/{study_path(study)}.parquet",
                    shard=range(1, shard_count(study) + 1),
                    allow_missing=True,
                ),
            output:
                f"<results>/{table_path(study)}.parquet",
            log:
                f"<logs>/{table_path(study)}.log",
            wildcard_constraints:
                **prompts_constraints(study),
            localrule: True
            conda:
                "../../envs/icl-lens.yaml"
            threads: 1
            params:
                contract=study.contract,
            message:
                f"Merging the shards of {study.name}: {{wildcards.model}}, {{wildcards.task}}, {{wildcards.set}}"
            shell:
                "icl-lens merge-shards --shards {input:q} --out {output:q} 2> {log:q}"
