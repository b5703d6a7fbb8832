"""The preflight: what is wrong with a model's rendered tokens, found before any weights are loaded.

Pure but for the renderer it is given. Severity: an `error` means that scores would be meaningless or change
from day to day, and stops the model; a `warning` is reported and the model goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from workers.errors import ModelError
from workers.protocol import Finding, Message, Request
from workers.render import Rendered, Renderer

USER, ANSWER, DATE = "rewardsweep-user-probe", "rewardsweep-answer-probe", "rewardsweep-date-probe"

PROVIDED = {
    "messages",
    "add_generation_prompt",
    "continue_final_message",
    "tools",
    "documents",
    "raise_exception",
    "strftime_now",
}
"""What transformers sets for every chat template, besides the special tokens."""


def lint(renderer: Renderer, requests: Sequence[Request], vocabulary: int | None) -> list[Finding]:
    """All findings on a model's template and on the tokens of its requests.

    `vocabulary` is the number of rows of the model's embedding, None when unknown.
    """
    rendered = renderer.ahead(requests)
    findings = [
        *(_template_findings(renderer) if renderer.own is None else ()),
        _special_token_finding(renderer, rendered),
        _eos_finding(renderer, requests, rendered),
        _where(
            "empty-response",
            "warning",
            "the response is empty or white space",
            [any(not response.strip() for response in request.responses) for request in requests],
        ),
        _where(
            "boundary",
            "warning",
            "the prompt's rendering does not begin the conversation's: the completion's first tokens are uncertain",
            [not row.clean for row in rendered],
        ),
        _where(
            "lost-text",
            "error",
            "the chat template drops a message of the question; set scoring.system: merged for one without system role",
            [
                request.kind == "generate" and any(turn.content.strip() not in row.text for turn in request.prompt)
                for request, row in zip(requests, rendered, strict=True)
            ],
        ),
        _where("truncated", "warning", _cut(renderer, rendered), [row.truncated for row in rendered]),
        _where(
            "vocabulary",
            "error",
            f"token ids beyond the model's {vocabulary} embeddings: the tokenizer belongs to another model",
            [vocabulary is not None and max(row.ids, default=0) >= vocabulary for row in rendered],
        ),
    ]
    return [finding for finding in findings if finding is not None]


def _where(check: str, severity: str, message: str, hits: Sequence[bool]) -> Finding | None:
    rows = tuple(index for index, hit in enumerate(hits) if hit)
    return Finding(check, "error" if severity == "error" else "warning", message, rows) if rows else None


def _cut(renderer: Renderer, rendered: Sequence[Rendered]) -> str:
    """What is done to a conversation that is too long."""
    if any(row.completion is not None for row in rendered):
        return "too long: the prompt loses its beginning, then the completion its end"
    return f"longer than {renderer.limit} tokens: cut on the {renderer.spec.truncation_side}"


def _special_token_finding(renderer: Renderer, rendered: Sequence[Rendered]) -> Finding | None:
    if renderer.spec.protocol == "reference" and any(row.completion is not None for row in rendered):
        message = "a BOS is added to the template's own: the model sees two (protocol: reference)"
    elif renderer.spec.bos == "single":
        message = "template and tokenizer both add BOS: the second was removed (bos: single)"
    else:
        message = "template and tokenizer both add BOS: the model sees two (bos: keep)"
    return _where("double-bos", "warning", message, [row.double_bos for row in rendered])


def _eos_finding(renderer: Renderer, requests: Sequence[Request], rendered: Sequence[Rendered]) -> Finding | None:
    """EOS is owed where the model's file expects it; templates often end in `EOS` and a line break.

    Blank responses and conversations cut on the right have findings of their own.
    """
    if renderer.spec.eos == "keep" or not requests or requests[0].kind in ("preference", "generate"):
        return None
    eos = renderer.tokenizer.eos_token_id
    if eos is None:
        return Finding("missing-eos", "error", f"eos: {renderer.spec.eos}, but the tokenizer has no EOS token")
    message = "the model was trained with EOS at the end (eos: expect) and it is missing; set eos: append"
    cut_right = renderer.spec.truncation_side == "right"
    missing = [
        renderer.last_content(row.ids) != eos
        and not (row.truncated and cut_right)
        and bool(request.responses[0].strip())
        for request, row in zip(requests, rendered, strict=True)
    ]
    return _where("missing-eos", "error", message, missing)


def _template_findings(renderer: Renderer) -> list[Finding]:
    """Defects of the template itself, seen by rendering probes through it."""
    dialogue = (Message("user", USER), Message("assistant", ANSWER))
    checks: list[Callable[[Renderer, tuple[Message, ...]], Finding | None]] = [
        _lost_text,
        _generation_prompt,
        _todays_date,
        _unknown_variables,
    ]
    return [finding for check in checks if (finding := check(renderer, dialogue)) is not None]


def _lost_text(renderer: Renderer, dialogue: tuple[Message, ...]) -> Finding | None:
    text = renderer.text(dialogue)
    lost = [turn.role for turn in dialogue if turn.content not in text]
    if not lost:
        return None
    return Finding("lost-text", "error", f"the chat template drops the {' and the '.join(lost)} turn")


def _generation_prompt(renderer: Renderer, dialogue: tuple[Message, ...]) -> Finding | None:
    """A rendering that ends in the header of one more answer reads its score on that header."""
    text, question = renderer.text(dialogue), dialogue[:1]
    try:
        prompt = renderer.text(question, add_generation_prompt=False)
        with_header = renderer.text(question, add_generation_prompt=True)
        longer = renderer.text((*dialogue, Message("user", USER)))
    except ModelError:  # a template may refuse what no request asks of it
        return None
    header = with_header[len(prompt) :] if with_header.startswith(prompt) else ""
    before = text.partition(USER)[2].partition(ANSWER)[0]
    after = text.rpartition(ANSWER)[2]
    unasked = before.strip() and prompt.rpartition(USER)[2] == before
    continued = longer.startswith(text.rstrip())
    if (header.strip() and after.endswith(header)) or (unasked and not continued):
        message = f"the rendering ends in a generation prompt: {after!r} follows the response"
        return Finding("generation-prompt", "warning", message)
    return None


def _todays_date(renderer: Renderer, dialogue: tuple[Message, ...]) -> Finding | None:
    if DATE not in renderer.text(dialogue, strftime_now=lambda form: DATE):
        return None
    message = (
        "the chat template writes today's date into the conversation, so scores would change daily; "
        f"set models.{renderer.spec.name}.template_kwargs.date_string, or a chat_template without the date"
    )
    return Finding("todays-date", "error", message)


def _unknown_variables(renderer: Renderer, dialogue: tuple[Message, ...]) -> Finding | None:
    """Variables that the template writes, that nothing sets and for which it has no other branch or default."""
    from jinja2 import meta, nodes
    from transformers.utils.chat_template_utils import _compile_jinja_template

    tree = _compile_jinja_template(renderer.template).environment.parse(renderer.template)
    tests = [test.node for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined")]
    defaults = [filtered.node for filtered in tree.find_all(nodes.Filter) if filtered.name in ("default", "d")]
    branches = [branch.test for branch in tree.find_all((nodes.If, nodes.CondExpr))]
    conditions = [part for branch in branches for part in (branch, *branch.find_all((nodes.And, nodes.Or, nodes.Not)))]
    operands = [child for part in conditions for child in (part, *part.iter_child_nodes())]
    tested = {node.name for node in (*tests, *defaults, *operands) if isinstance(node, nodes.Name)}
    special = set(renderer.tokenizer.special_tokens_map)
    known = PROVIDED | tested | special | set(renderer.spec.template_kwargs)
    unset = sorted(meta.find_undeclared_variables(tree) - known)
    if not unset:
        return None
    key = f"models.{renderer.spec.name}.template_kwargs.{unset[0]}"
    message = f"the chat template reads {', '.join(unset)}, which nothing sets, so it renders as empty; set {key}"
    return Finding("unknown-variable", "warning", message)
