import json

import pytest

from aforo_authz.denials import DENIALS, problem
from aforo_authz.domain.access import Decision, Outcome, Reason
from aforo_authz.domain.features import Needs


def refused(reason: Reason, *, retry_after_s: int | None = None) -> dict[str, object]:
    decision = Decision(reason=reason, needs=Needs(), retry_after_s=retry_after_s)
    document: dict[str, object] = json.loads(problem(DENIALS[reason], decision, "0123"))
    return document


def test_every_reason_that_refuses_has_words_and_no_other() -> None:
    refusing = {r for r in Reason if Decision(reason=r, needs=Needs()).outcome is Outcome.BLOCK}

    assert set(DENIALS) == refusing


@pytest.mark.parametrize("reason", DENIALS)
def test_a_problem_document_has_the_members_of_rfc_9457_and_a_stable_code(reason: Reason) -> None:
    document = refused(reason)

    assert set(document) == {"type", "title", "status", "detail", "code", "decision_id"}
    assert document["type"] == f"urn:aforo:problem:{reason.value}"
    assert document["status"] == DENIALS[reason].status
    assert document["decision_id"] == "0123"


def test_codes_are_unique_and_in_capitals() -> None:
    codes = [denial.code for denial in DENIALS.values()]

    assert len(set(codes)) == len(codes)
    assert all(code.replace("_", "").isalpha() and code.isupper() for code in codes)


def test_the_margin_block_has_the_words_that_programs_rely_on() -> None:
    denial = DENIALS[Reason.MARGIN_LIMIT_EXCEEDED]

    assert (denial.status, denial.title) == (429, "Margin Limit Exceeded")
    assert denial.code == "SERVICE_RESTRICTED_MARGIN"


@pytest.mark.parametrize(("retry_after_s", "told"), [(None, None), (0, 0), (60, 60)])
def test_how_long_to_wait_is_told_where_waiting_helps(
    retry_after_s: int | None, told: int | None
) -> None:
    document = refused(Reason.QUOTA_EXCEEDED, retry_after_s=retry_after_s)

    assert document.get("retry_after_s") == told


@pytest.mark.parametrize("reason", DENIALS)
def test_no_word_tells_of_money(reason: Reason) -> None:
    words = {**refused(reason)}
    # The title and code of the margin block are the product's; what it is about, nobody learns.
    assert not {"revenue", "cogs", "ratio", "cost", "price"} & set(str(words).lower().split())
