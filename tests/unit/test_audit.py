"""The audit of dependencies: what its answers mean."""

import pytest

from lab import audit


def test_a_weakness_is_a_line_with_its_remedy() -> None:
    report = {
        "dependencies": [
            {"name": "sound", "version": "1.0", "vulns": []},
            {"name": "skipped", "skip_reason": "not found"},
            {
                "name": "weak",
                "version": "1.0",
                "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"]}],
            },
            {"name": "lost", "version": "3", "vulns": [{"id": "CVE-2", "fix_versions": []}]},
        ]
    }

    assert audit.weaknesses(report) == [
        "weak 1.0: PYSEC-1; repaired in 1.1, 2.0",
        "lost 3: CVE-2; repaired in no version yet",
    ]


@pytest.mark.parametrize(("required", "code"), [(True, 1), (False, 0)])
def test_silence_is_told_and_fails_only_where_an_answer_is_required(
    capsys: pytest.CaptureFixture[str], *, required: bool, code: int
) -> None:
    assert audit.unheard("ERROR: connection refused\n", required=required) == code
    assert "NOT AUDITED" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("packages", "required", "code"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], True, 0),
        ([{"name": "a", "skip_reason": "not found"}], False, 0),
        ([{"name": "a", "skip_reason": "not found"}], True, 1),
        (
            [
                {"name": "a", "skip_reason": "not found"},
                {"name": "b", "version": "1", "vulns": [{"id": "X", "fix_versions": []}]},
            ],
            False,
            1,
        ),
    ],
)
def test_a_package_that_was_skipped_is_not_audited(
    packages: list[dict[str, object]], *, required: bool, code: int
) -> None:
    assert audit.judged({"dependencies": packages}, required=required) == code
