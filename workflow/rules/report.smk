# The report page: the results for each claim, with every figure and table that `all` makes.


localrules:
    report,


rule report:
    input:
        walks=[
            f"{folder}/{study}.parquet"
            for folder in walked_folders()
            for study in WALKED
        ],
        made=reported_files,
        claims=external_files(reported_claims()),
        page=external_files(report_page()),
        nulls=external_files(null_scorecards().values()),
    output:
        page=report(
            "<results>/report/index.html",
            caption="../report/scorecard.rst",
            category="Scorecard",
        ),
        scorecard="<results>/report/scorecard.csv",
        record="<results>/report/index.json",
    log:
        "<logs>/report/index.log",
    conda:
        "../../envs/icl-lens.yaml"
    threads: 1
    params:
        code=code_of("icl_lens.report.page"),
        content=content(
            [*reported_claims(), *report_page(), *null_scorecards().values()]
        ),
        results=lambda wildcards, output: Path(output.page).parents[1],
        shown=reported_items(),
        headings=[registry.groups()[group].heading for group in registry.groups()],
        walks=walked_folders(),
        left_out=left_out(),
        nulls=null_options(),
        page=resources.REPORT,
    message:
        "Writing the report"
    shell:
        "icl-lens report --results {params.results:q} --items {params.shown} --claims {input.claims:q} "
        "--walks {params.walks:q} --left-out {params.left_out:q} --nulls {params.nulls:q} --page {params.page:q} --out {output.page:q} 2> {log:q}"
