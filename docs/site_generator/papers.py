"""One page for each group of studies: what the paper claims, how it is measured, what was found, and how to run it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from importlib import import_module

from icl_lens.report.claims import Claim, Paper, rule_in_words
from icl_lens.report.verdicts import OUTCOMES, UNTESTABLE
from icl_lens.studies import registry
from icl_lens.studies.group import Group
from icl_lens.studies.item import Item

from . import items, markdown
from .layout import DOCS, REPOSITORY, headings, relative
from .results import papers, pictures, scorecards

INDEX = "papers/index.md"
CONCEPTS = "concepts.md"


def address(group: str) -> str:
    """Return the address of a group's page."""
    return f"papers/{group}.md"


def index() -> str:
    """Return the table of the groups."""
    rows = []
    for name, group in registry.groups().items():
        paper = papers().get(name)
        about = f"{markdown.text(paper.name)} ({_reference(paper.reference)})" if paper else ""
        members = [item for item in registry.items().values() if item.group == name]
        figures = sum(item.kind == "figure" for item in members)
        rows.append(
            [
                f"[{markdown.text(_heading(group))}]({name}.md)",
                about,
                markdown.code(name),
                _counted(figures, len(members) - figures),
                str(len(paper.claims)) if paper else "",
            ]
        )
    header = ["group", "paper", "target", "items", "claims"]
    return markdown.table(header, rows) + "\n"


def _counted(figures: int, tables: int) -> str:
    """Return numbers of figures and tables in words."""
    counts = {"figure": figures, "table": tables}
    return ", ".join(f"{count} {word}{'s' * (count > 1)}" for word, count in counts.items() if count)


def pages() -> dict[str, str]:
    """Return address -> page of each group."""
    return {address(name): _page(name, group) for name, group in registry.groups().items()}


def _heading(group: Group) -> str:
    words = group.heading.replace("_", " ")
    return words[:1].upper() + words[1:]


def _page(name: str, group: Group) -> str:
    paper = papers().get(name)
    members = [item for item in registry.items().values() if item.group == name]
    parts = [f"# {markdown.text(_heading(group))}"]
    if paper:
        models = f" The paper's models: {', '.join(map(markdown.text, paper.models))}." if paper.models else ""
        parts.append(f"*{markdown.text(paper.name)}*, {_reference(paper.reference)}.{models}{_concepts(name, paper)}")
    else:
        parts.append(markdown.prose(inspect.getdoc(import_module(f"{group.package}.group")) or ""))
    parts += _how_to_run(name, members)
    if paper:
        parts += _verdicts(name, paper)
    parts += _studies(name)
    parts += _items(name, members)
    if paper:
        parts += _claims(name, paper, members)
    else:
        parts += [items.picture_of(item, picture, address(name)) for item in members for picture in pictures(item.name)]
    return "\n\n".join(parts) + "\n"


def _concepts(name: str, paper: Paper) -> str:
    """Return a sentence with a link to the concepts of a paper; empty if the page about concepts has none."""
    anchors = {
        heading.casefold(): anchor for heading, anchor in headings((DOCS / CONCEPTS).read_text(encoding="utf-8")).items()
    }
    anchor = anchors.get(paper.name.casefold())
    return f" [Concepts]({relative(CONCEPTS, address(name))}#{anchor}) defines what its studies measure." if anchor else ""


def _reference(reference: str) -> str:
    """Return the references of a group, separated by commas, with a link for each that contains an arXiv number."""
    # A reference can contain commas itself, so only a comma after an arXiv number separates two of them.
    return ", ".join(_linked(each) for each in re.split(r"(?<=\d\)), ", reference))


def _linked(reference: str) -> str:
    found = re.search(r"\d{4}\.\d{4,5}", reference)
    escaped = markdown.text(reference)
    return f"[{escaped}](https://arxiv.org/abs/{found[0]})" if found else escaped


def _how_to_run(name: str, members: Sequence[Item]) -> list[str]:
    commands = []
    if any(item.in_all for item in members):
        commands.append(f".venv/bin/snakemake {name} --cores all")
    commands += [items.command(item) for item in members if not item.in_all]
    parts = ["## Run it", markdown.block("\n".join(commands))]
    file = next((f for f in (f"config/{name}.yaml", f"config/{name.replace('_', '-')}.yaml") if (REPOSITORY / f).is_file()), "")
    if file:
        command = f".venv/bin/snakemake {name} --cores all --configfile {file}"
        parts += [
            f"With the paper's own models and tasks ({markdown.code(file)} describes what it needs):",
            markdown.block(command),
        ]
    page = relative("own-model.md", address(name))
    return [*parts, f"For your own model or data, add `--configfile my.yaml` ([Your own model]({page}))."]


def _verdicts(name: str, paper: Paper) -> list[str]:
    rows = []
    for card in scorecards():
        counts = card.counts(paper.name)
        if sum(counts):
            of_run = card.publications[paper.name]
            link = f"[{markdown.text(card.title)}]({relative(of_run.page, address(name))})"
            rows.append([link, *map(str, counts), f"[CSV]({relative(of_run.scorecard, address(name))})"])
    if not rows:
        return []
    statistics = relative("statistics.md", address(name))
    note = (
        f"Number of claims with each verdict. [Statistics]({statistics}#verdicts) defines the verdicts. A claim about a number "
        "of the paper's own model is not testable on another model."
    )
    return ["## Verdicts", note, markdown.table(["model", *OUTCOMES, "all columns"], rows)]


def _studies(name: str) -> list[str]:
    reference = relative("config/reference.md", address(name))
    rows = []
    for study in registry.studies().values():
        if study.group == name:
            key = f"[{markdown.code(f'studies.{study.settings.name}')}]({reference})" if study.settings else ""
            rows.append([markdown.code(study.name), markdown.text(study.help), markdown.code(f"icl-lens {study.command}"), key])
    if not rows:
        return []
    note = (
        "Each study computes one table per model, task and prompt set. The command computes it for a prompts table of your own."
    )
    return ["## Studies", note, markdown.table(["study", "result", "command", "settings"], rows)]


def _items(name: str, members: Sequence[Item]) -> list[str]:
    rows = []
    for item in members:
        read = ", ".join(map(markdown.code, item.studies))
        rows.append([items.link(item, address(name)), markdown.code(item.name), markdown.title(item.title), read])
    columns = 4 if any(item.studies for item in members) else 3
    header = ["item", "target", "content", "studies"]
    return ["## Figures and tables", markdown.table(header[:columns], [row[:columns] for row in rows])] if rows else []


def _claims(name: str, paper: Paper, members: Sequence[Item]) -> list[str]:
    rules = relative("statistics.md", address(name))
    parts = [
        "## Claims",
        "Each claim has a rule that selects rows of the CSV of its figure or table and gives a condition on their values. The "
        f"verdicts follow from the values and their confidence intervals ([Statistics]({rules}#verdicts)).",
    ]
    for item in members:
        about = [claim for claim in paper.claims if claim.item == item.name]
        if not about:
            continue
        parts.append(f"### {markdown.text(items.label(item))} {{#claims-{items.anchor(item)}}}")
        parts.append(f"{markdown.title(item.title)}. {items.link(item, address(name))} in the gallery.")
        parts += [items.picture_of(item, picture, address(name)) for picture in pictures(item.name)[:1]]
        own = [claim for claim in about if _only_papers_model(paper, claim)]
        parts += [_claim(paper, claim) for claim in about if claim not in own]
        if own:
            rows = [
                [
                    markdown.text(f"{claim.statement} ({claim.where})"),
                    markdown.text("" if claim.value is None else claim.value),
                    *(markdown.text(_row(card.rows, paper, claim).get("ours", "")) for card in scorecards()),
                ]
                for claim in own
            ]
            header = ["claim", "paper", *(card.title for card in scorecards())]
            summary = f'??? note "{len(own)} claims about numbers of the paper\'s own models"'
            parts.append(f"{summary}\n\n{markdown.indented(markdown.table(header, rows))}")
    return parts


def _only_papers_model(paper: Paper, claim: Claim) -> bool:
    """Return whether a claim is about a number of the paper's model that no committed run could test."""
    tested = [_row(card.rows, paper, claim).get("verdict", UNTESTABLE) for card in scorecards()]
    return claim.rule.within is not None and all(verdict == UNTESTABLE for verdict in tested)


def _row(rows: Mapping[tuple[str, str], Mapping[str, str]], paper: Paper, claim: Claim) -> Mapping[str, str]:
    return rows.get((paper.name, claim.id), {})


def _claim(paper: Paper, claim: Claim) -> str:
    value = "" if claim.value is None else f" The paper's value: {markdown.text(claim.value)}."
    lines = [
        f"**{markdown.text(claim.statement)}**",
        "",
        f"- Claim {markdown.code(claim.id)}, {markdown.text(claim.where)}.{value}",
        f"- Rule: {markdown.code(rule_in_words(claim))}",
    ]
    for card in scorecards():
        row = _row(card.rows, paper, claim)
        if not row:
            lines.append(f"- {markdown.text(card.title)}: not in the scorecard")
            continue
        ours = f": {markdown.text(row['ours'])}" if row["ours"] else ""
        reason = f" ({markdown.text(row['reason'])})" if row["reason"] else ""
        lines.append(f"- {markdown.text(card.title)}: *{markdown.text(row['verdict'])}*{ours}{reason}")
    return "\n".join(lines)
