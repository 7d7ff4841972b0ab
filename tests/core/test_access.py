"""Who may do what, and what says who somebody is."""

from __future__ import annotations

import pytest

from metisfl_async.core.access import (
    LOCAL,
    MAY_CALL,
    Caller,
    Identity,
    Role,
    authorise,
    identity_from_uri,
    parsed_identity,
)
from metisfl_async.core.credentials import PREFIX, Tokens, digest_of, identity_of, new_secret, revoked_of, subjects_of
from metisfl_async.core.errors import AccessDenied, ConfigError
from metisfl_async.transport._proto import metisfl_pb2 as pb

SITE = Identity(Role.LEARNER, "site-1")


def test_every_method_of_ours_is_in_the_table_and_no_other() -> None:
    for service in pb.DESCRIPTOR.services_by_name.values():
        assert MAY_CALL[service.full_name].keys() == {method.name for method in service.methods}
        assert all(MAY_CALL[service.full_name].values())


@pytest.mark.parametrize("role", Role)
def test_each_role_may_call_what_the_table_says_and_nothing_else(role: Role) -> None:
    caller = Caller("somewhere", Identity(role, "a"))
    for service, methods in MAY_CALL.items():
        for method, roles in methods.items():
            authorise(service, method, LOCAL)
            if role in roles:
                authorise(service, method, caller)
            else:
                with pytest.raises(AccessDenied):
                    authorise(service, method, caller)
    for service, method in (("metisfl_async.v1.Controller", "Other"), ("other.Service", "Tasks")):
        for each in (caller, LOCAL):
            with pytest.raises(AccessDenied):
                authorise(service, method, each)


def test_learners_and_observers_start_and_stop_nothing() -> None:
    ours = MAY_CALL["metisfl_async.v1.Controller"]
    of_drivers = {method for method, roles in ours.items() if roles == {Role.DRIVER}}
    assert of_drivers == {"SetInitialModel", "StartTraining", "Ask", "ReportEvaluation", "StopTraining", "ShutDown"}
    assert {method for method, roles in ours.items() if Role.OBSERVER in roles} == {
        "GetStatus",
        "WatchEvents",
        "GetLogs",
        "GetModel",
    }


def test_an_identity_goes_into_a_certificate_and_comes_back() -> None:
    assert SITE.uri == "metisfl://learner/site-1"
    assert identity_from_uri(SITE.uri) == SITE
    for other in ("https://learner/site-1", "metisfl://learner/", "metisfl://boss/a", "metisfl://learner/a\nb", ""):
        assert identity_from_uri(other) is None
    assert str(Caller("ipv4:10.0.0.1:5", SITE)) == "learner/site-1 at ipv4:10.0.0.1:5"
    assert str(Caller("ipv4:10.0.0.1:5")) == "somebody at ipv4:10.0.0.1:5"


WRONG = ["site-1", "boss/a", "learner/", "learner/" + "a" * 129, "learner/ a", "learner/a\x1b"]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_identity_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="name is"):
        parsed_identity("name", text)


def test_a_file_of_tokens_knows_owners_and_nobody_else() -> None:
    secrets = [new_secret() for _ in range(3)]
    assert all(secret.startswith(PREFIX) and len(secret) > 40 for secret in secrets)
    assert len(set(secrets)) == 3
    tokens = Tokens(
        f"# who\n\nlearner/site 1 {digest_of(secrets[0])}\ndriver/alice {digest_of(secrets[1])}\n"
        f"driver/alice {digest_of(secrets[2])}\n"
    )
    assert tokens.owner(digest_of(secrets[0])) == (Role.LEARNER, "site 1")
    assert tokens.owner(digest_of(secrets[1])) == tokens.owner(digest_of(secrets[2])) == (Role.DRIVER, "alice")
    assert tokens.owner(digest_of(new_secret())) is None
    nearly = digest_of(secrets[0])[:-1] + ("0" if digest_of(secrets[0])[-1] != "0" else "1")
    assert tokens.owner(nearly) is None


@pytest.mark.parametrize("line", ["learner/a", "learner/a abc", "learner/a " + "g" * 64, "boss/a " + "0" * 64])
def test_a_wrong_line_of_a_file_of_tokens_is_named(line: str) -> None:
    with pytest.raises(ConfigError, match="line 2 is"):
        Tokens(f"learner/b {'0' * 64}\n{line}\n")


def test_subjects_and_serial_numbers_are_read() -> None:
    subjects = subjects_of("learner/site-1 = CN=imaging,O=Hospital A\n# more\ndriver/bob = CN=bob\n")
    assert identity_of([], "CN=imaging,O=Hospital A", subjects) == SITE
    assert identity_of(["metisfl://driver/eve"], "CN=bob", subjects) == (Role.DRIVER, "bob")  # the file wins
    assert identity_of(["https://a", SITE.uri], "CN=other", subjects) == SITE
    assert identity_of([SITE.uri, "metisfl://driver/eve"], "CN=other", subjects) is None  # one of them, or none
    assert identity_of([], "CN=other", subjects) is None
    assert revoked_of("0a:0B\nff\n#\n") == {0x0A0B, 0xFF}
    for read, line in ((subjects_of, "learner/a CN=a"), (subjects_of, "boss/a = CN=a"), (revoked_of, "no")):
        with pytest.raises(ConfigError, match="line 1 is"):
            read(line)
