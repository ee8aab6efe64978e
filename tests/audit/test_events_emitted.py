"""I1: each type of event is emitted: driven here through the real code, or by a test that is named and must exist."""

from __future__ import annotations

import ast
import asyncio
import time
from collections import Counter
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from gateway.inhouse import TOOLS, Inhouse, lived
from identity.test_misuse import SCENARIOS, Watched
from limen.adapters.egress_report import Report
from limen.audit.catalogue import CATALOGUE
from limen.audit.events import read_event, type_of
from limen.cli.main import app
from limen.config.playbooks import digest_of, playbook_text
from limen.core.announce import Announcement
from limen.sandbox.egress import Denied

TESTS = Path(__file__).resolve().parents[1]
# Types that need other machinery than is started here, and the test that makes them happen.
ELSEWHERE = {
    "security.session.hijack": "identity/test_sessions.py::test_c5_two_people_at_once_end_the_session_everywhere",
    "security.session.step_up": "identity/test_sessions.py::test_c5_step_up_until_a_fresh_sign_in",
    "security.session.changed": "identity/test_sessions.py::test_c5_two_devices_of_one_person_are_let_alone",
    "security.signin.other_browser": "attacks/test_oauth_authorize.py"
    "::test_oa_02_consent_in_one_browser_does_not_count_in_another",
    "security.signin.mix_up": "attacks/test_oauth_authorize.py::test_oa_28_mix_up_an_answer_of_another_provider",
    "security.consent.cookie": "attacks/test_oauth_consent.py::test_no_bit_of_the_cookie_can_be_changed_oa06_as32",
    "connect_by_another": "attacks/test_oauth_connections.py"
    "::test_a_link_sent_to_somebody_else_links_nothing_eli10_oa02",
    "connect_mix_up": "attacks/test_oauth_connections.py::test_mix_up_by_issuer_oa28_cli06_cli07",
    "session.begun": "identity/test_session_events.py::test_I1_a_session_begins_with_who_and_ends_with_why",
    "session.ended": "identity/test_session_events.py::test_I1_a_session_begins_with_who_and_ends_with_why",
    "session.resumed": "identity/test_session_events.py"
    "::test_I1_another_process_says_that_it_goes_on_and_that_it_is_over",
    "exchange": "attacks/test_oauth_upstream_credentials.py::test_the_server_gets_a_token_that_is_meant_for_it_b2",
    "disconnected": "credentials/test_user_grants.py::test_refused_refresh_token_ends_the_connection",
    "consent.give": "oauth/test_consent.py::test_every_change_is_recorded_before_it_is_made",
    "consent.revoke": "oauth/test_consent.py::test_every_change_is_recorded_before_it_is_made",
    "oauth.client_registered": "oauth/test_registration.py::test_management_by_whoever_holds_the_token",
    "oauth.client_updated": "oauth/test_registration.py::test_management_by_whoever_holds_the_token",
    "oauth.client_deleted": "oauth/test_registration.py::test_management_by_whoever_holds_the_token",
    "oauth.client_removed": "cli/test_oauth_clients_command.py::test_clients_are_listed_shown_and_removed",
    "oauth.client_refused": "oauth/test_documents.py::test_a_flood_of_refused_hosts_does_not_fill_the_log",
    "oauth.client_changed": "oauth/test_documents.py"
    "::test_oa_44_a_document_that_changes_is_another_client_to_consent_to",
    "oauth.registrations_full": "oauth/test_registration.py::test_oa_15_ten_thousand_registrations",
    "upstream_issuer.failed": "credentials/test_upstream_discovery.py",
    "catalog.held": "catalog/test_registry.py"
    "::test_a_held_change_leaves_the_approved_definition_in_service",
    "catalog.dropped": "catalog/test_registry.py"
    "::test_every_version_is_kept_but_a_server_cannot_fill_the_disk",
    "catalog.tampered": "catalog/test_registry.py"
    "::test_a_tampered_definition_is_not_served_and_its_neighbours_are",
    "catalog.repaired": "catalog/test_registry.py"
    "::test_a_tampered_definition_is_not_served_and_its_neighbours_are",
    "catalog.voted": "catalog/test_governance.py::test_two_people_approve_one_digest",
    "catalog.finding": "catalog/test_governance.py::test_findings_of_a_reading_are_recorded_once",
    "cell.start": "sandbox/test_cell_servers.py::test_the_gateway_runs_a_command_in_a_cell_and_tells_its_log",
    "cell.exit": "sandbox/test_cell_servers.py::test_the_gateway_runs_a_command_in_a_cell_and_tells_its_log",
    "feed": "gateway/test_content.py::test_an_indicator_of_a_feed_is_found_in_what_a_server_says",
    "quarantine.released": "cli/test_content_commands.py"
    "::test_an_original_is_released_once_and_the_log_hears_of_it",
    "quarantine.discarded": "cli/test_content_commands.py::test_an_original_is_deleted_unread",
    "labels.cleared": "cli/test_content_commands.py"
    "::test_labels_are_shown_with_their_reads_and_cleared_with_a_reason",
    "reload.ok": "gateway/test_reload.py::test_a_changed_policy_decides_without_a_restart_and_is_recorded",
    "start": "gateway/test_gateway.py::test_every_call_is_in_the_log_with_what_was_decided",
    "vault.rewrapped": "cli/test_vault_commands.py::test_rewrap_after_a_rotation_elsewhere",
    "parameters.read": "gateway/test_parameters.py"
    "::test_I1_encrypted_opens_for_an_operator_until_its_callers_key_is_destroyed",
    "access_review": "cli/test_access.py::test_an_attestation_is_signed_listed_and_told_to_the_log",
    "attempts_lost": "oauth/test_attempts.py::test_one_address_cannot_fill_the_queue",
    "alert": "incidents/test_alerts.py::test_an_alert_is_on_record_and_on_its_way_to_those_it_concerns",
    "alert_decided": "gateway/test_risk_gateway.py::test_acknowledging_and_closing_from_the_command_line",
    "alert_suppressed": "incidents/test_alerts.py::test_suppressed_is_recorded_and_told_to_nobody_until_it_ends",
    "delivery.dead": "incidents/test_delivery.py"
    "::test_what_is_refused_for_good_is_set_aside_told_and_can_be_sent_again",
    "delivery.revived": "incidents/test_delivery.py"
    "::test_what_is_refused_for_good_is_set_aside_told_and_can_be_sent_again",
    "containment": "gateway/test_containment.py"
    "::test_a_quarantined_tool_is_neither_called_nor_listed_by_any_of_its_names",
    "signal": "gateway/test_decoys.py::test_whoever_calls_it_reaches_no_server_and_is_a_suspect_i9",
    "security.decoy.called": "gateway/test_decoys.py::test_whoever_calls_it_reaches_no_server_and_is_a_suspect_i9",
    "security.decoy.canary": "gateway/test_decoys.py::test_a_canary_in_arguments_is_noticed_in_another_form_too_i9",
    "risk.cleared": "gateway/test_risk_gateway.py::test_a_false_alarm_is_taken_back_i7",
    "restart.ok": "recovery/test_restart.py::test_a_restart_drops_no_call_and_leaves_nothing_of_the_former_cell_j4",
    "restart.failed": "recovery/test_restart.py::test_a_tampered_artifact_refuses_to_start_and_says_so_g9",
    "certificate.ok": "recovery/test_renewed_certificate.py"
    "::test_twenty_callers_and_an_open_connection_do_not_notice_j3",
    "certificate.failed": "recovery/test_renewed_certificate.py"
    "::test_a_certificate_without_its_key_changes_nothing_and_is_told",
    "restored": "recovery/test_backup.py::test_a_gateway_from_nothing_but_its_backup_j4",
    "config.rollback": "recovery/test_history.py::test_a_tampered_policy_is_seen_compared_and_put_back_op_09",
    "follower.behind": "export/test_export_engine.py::test_back_pressure_ends_in_refusal_and_is_taken_back",
    "follower.recovered": "export/test_export_engine.py::test_back_pressure_ends_in_refusal_and_is_taken_back",
    "follower.dead_letter": "export/test_export_engine.py"
    "::test_a_refused_record_is_found_put_aside_and_told_and_the_rest_arrives",
    "follower.rewound": "export/test_export_engine.py::test_a_log_put_back_from_a_copy_is_followed_on_and_told",
    "follower.forgotten": "export/test_export_gateway.py"
    "::test_one_that_is_not_configured_any_more_is_shown_and_forgotten",
    "witnessed": "audit/test_audit_upkeep.py::test_what_is_too_old_goes_from_the_log_and_from_its_index_by_itself",
    "pruned": "audit/test_audit_upkeep.py::test_what_is_too_old_goes_from_the_log_and_from_its_index_by_itself",
    "unwatched": "watching/test_watcher.py"
    "::test_a_record_that_hits_a_mistake_of_ours_ends_no_gateway_and_is_on_record",
    "tampered": "audit/test_audit_upkeep.py"
    "::test_op_02_a_log_that_was_set_back_is_told_of_once_and_nothing_is_removed",
    "incident.evidence": "incidents/test_five_incidents.py::test_credential_theft",
    "playbook.fired": "incidents/test_playbooks.py"
    "::test_attacker_is_locked_and_an_incident_opened_and_the_honest_is_left_alone_j2",
    "playbook.unapproved": "incidents/test_playbooks.py"
    "::test_nothing_is_done_before_it_was_approved_nor_after_the_file_changed_j2",
    "playbook.limited": "incidents/test_playbooks.py"
    "::test_limits_keep_a_playbook_from_locking_a_company_out_and_say_so_once",
    "playbook.waits": "incidents/test_playbooks.py"
    "::test_what_concerns_everybody_waits_for_a_person_and_ends_if_nobody_comes",
    "playbook.expired": "incidents/test_playbooks.py"
    "::test_what_concerns_everybody_waits_for_a_person_and_ends_if_nobody_comes",
}  # fmt: skip
# Written, and no test yet that looks at the record itself: by machinery whose own tests cover what causes it.
NOT_SHOWN = {
    "signin.granted", "grant.begun", "grant.ended", "grant.access_token_revoked", "grant.refresh_token_revoked",
    "grant.grant_revoked", "credential.fault", "credential.late", "connected", "connection_failed", "revocation_told",
    "revocation_pending", "upstream_issuer.ok", "consent.denied", "security.consent.forged", "cell.refused",
    "protect.rotated", "protect.destroyed", "recovered", "reload.failed", "keys", "package.installed",
    "package.deleted", "lock", "prune.asked", "behavior.forgotten", "playbook.invalid", "playbook.agreed",
    "playbook.refused", "playbook.undo", "playbook.rolled_back",
}  # fmt: skip


DAY = """audit: {parameters: encrypted, deleters: 2}
incidents: {playbooks: ['shipped:bulk-read', 'shipped:leaking-server']}
"""


def command(inhouse: Inhouse, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["-c", str(inhouse.file), *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def administered(inhouse: Inhouse, held: str) -> None:
    """What an operator does with commands while the gateway runs."""
    command(inhouse, "approvals", "approve", held, "--by", "carol")
    command(inhouse, "approvals", "reject", held, "--by", "carol", "--reason", "no")
    revoked = orjson.loads(command(inhouse, "revoke", "user", "mallory", "--reason", "left", "--json"))
    key = orjson.loads(command(inhouse, "keys", "api", "create", "job", "--server", "up", "--json"))
    command(inhouse, "keys", "api", "revoke", key["id"])
    command(inhouse, "vault", "rotate", "--data")
    command(inhouse, "vault", "shred", "ann", "--issuer", "local", "--yes", "--reason", "left")
    time.sleep(0.6)  # until the gateway has looked
    command(inhouse, "revoke", "undo", revoked["id"], "--by", "carol")
    time.sleep(0.6)  # until the gateway has looked


def responded(inhouse: Inhouse) -> None:
    """What people who watch do with commands."""
    why = ("--by", "carol", "--reason", "test")
    command(inhouse, "playbook", "approve", "shipped:bulk-read", *why)
    command(inhouse, "playbook", "withdraw", digest_of(playbook_text("shipped:bulk-read")), *why)
    opened = orjson.loads(command(inhouse, "incident", "open", "Odd calls", "--json"))["id"]
    command(inhouse, "incident", "note", opened, "called ann")
    command(inhouse, "incident", "assign", opened, "carol")
    command(inhouse, "incident", "close", opened, "--reason", "it was a test")
    made = orjson.loads(command(inhouse, "contain", "lock-caller", "mallory", *why, "--json"))
    command(inhouse, "contain", "release", made["id"], *why)
    quiet = orjson.loads(
        command(inhouse, "alerts", "suppress", "*", "--about", "caller=nobody", "--until", "1h", *why, "--json")
    )
    command(inhouse, "alerts", "unsuppress", quiet["id"])
    hold = orjson.loads(command(inhouse, "audit", "hold", "add", "caller", "ann", *why, "--json"))
    for who in ("carol", "dave"):
        command(inhouse, "audit", "hold", "release", hold["id"], "--by", who, "--reason", "over")
    key = orjson.loads(command(inhouse, "keys", "api", "create", "job", "--server", "up", "--json"))
    command(inhouse, "keys", "api", "regenerate", key["id"], "--overlap", "1")
    command(inhouse, "keys", "rotate", "handles")
    command(inhouse, "decoys", "canary", "old wiki")
    command(inhouse, "decoys", "uproot", "old wiki")


async def announced(inhouse: Inhouse) -> None:
    """What a server can do to its definitions, and people about them."""
    registry = inhouse.house.registry
    changed = {**TOOLS[0], "description": "Echoes, and more."}
    await inhouse.house.observe(Announcement("up", "2026-07-28", tools=(changed, TOOLS[1])))
    registry.approve("up", "tool", "echo", "alice", "agreed")
    registry.rollback("up", "tool", "echo", "alice", "worse")
    await inhouse.house.observe(Announcement("up", "2026-07-28", tools=(TOOLS[1],)))
    await inhouse.house.observe(Announcement("up", "2026-07-28", tools=TOOLS))
    odd = {**TOOLS[1], "description": "Sends to another place."}
    await inhouse.house.observe(Announcement("up", "2026-07-28", tools=(TOOLS[0], odd)))
    registry.reject("up", "tool", "send", "alice", "no")
    await inhouse.house.observe(Announcement("up", "2026-07-28", tools=TOOLS))
    await inhouse.house.observe(Announcement("up", "2026-07-28", tools=(TOOLS[0], odd)))
    inhouse.house.chronicle.follow(registry)


def networked(emit: Any) -> None:
    """What the network of a cell does."""
    egress = SimpleNamespace(server="up", say=lambda denied: "allow it")
    report = Report(egress, 1, emit, Counter())  # type: ignore[arg-type]
    route: Any = SimpleNamespace(address=ip_address("192.0.2.1"), port=443)
    report.allowed(route, "files.example", SimpleNamespace(text="files.example:443"))  # type: ignore[arg-type]
    report.ended(route, "files.example", 10, 20, 0.5)
    for reason in ("name.unknown", "name.unknown", "learn.wanted"):
        report.refused(Denied(reason, "evil.example", "", "no rule"))
    report.closed()


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every event of one eventful day, by type."""
    emitted: list[dict[str, Any]] = []
    for attacks in SCENARIOS.values():
        watched = Watched()
        attacks[0][0](watched)
        emitted.extend(watched.events)
    networked(emitted.append)

    async def work(inhouse: Inhouse) -> None:
        house = inhouse.house
        await inhouse.call()
        held = await inhouse.call("send")
        await inhouse.call("", method="tools/list", arguments={})
        duty = asyncio.create_task(house.watch_state())
        await asyncio.to_thread(administered, inhouse, held.public["approval"])
        await asyncio.to_thread(responded, inhouse)
        await announced(inhouse)
        house.unreachable("up", "down")
        house.reachable("up")
        house.found("up", "announces other tools to other clients")
        note = house.delegation._noted("up")
        note({"kind": "exchange", "outcome": "ok", "detail": ""})
        note({"kind": "exchange", "outcome": "refused", "detail": "no"})
        for event in emitted:
            house._emit(event)
        await asyncio.sleep(0.8)  # what commands did is looked for four times a second
        duty.cancel()
        await asyncio.gather(duty, return_exceptions=True)
        house.engine.event("stop", reason="asked to")

    found = lived(tmp_path_factory.mktemp("day"), work, DAY)
    return {event.type: event for event in found.events}


def test_I1_every_type_is_emitted(events: dict[str, Any]) -> None:
    """I1: a type nobody makes happen would be a promise nobody keeps."""
    missing = set(CATALOGUE) - set(events) - set(ELSEWHERE) - NOT_SHOWN
    assert sorted(missing) == []
    assert NOT_SHOWN & set(events) == set(), "take it out of NOT_SHOWN"


def test_I1_emitted_events_are_of_the_catalogue(events: dict[str, Any]) -> None:
    """I1: and carry nothing that is not documented there."""
    from limen.audit.members import COMMON, WHO

    for type, event in events.items():
        row = CATALOGUE[type]
        assert event.category == row.category or type == "call.refused", type
        stray = set(event.record) - set(row.members) - set(COMMON) - set(WHO)
        assert stray <= {"at", "by"}, (type, stray)


@pytest.mark.parametrize("type", sorted(ELSEWHERE))
def test_I1_the_test_that_emits_it_exists(type: str) -> None:
    """I1: by file and name."""
    file, _, name = ELSEWHERE[type].partition("::")
    defined = {
        node.name
        for node in ast.parse((TESTS / file).read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert type in CATALOGUE
    assert not name or name in defined


def test_records_nobody_knows_are_events_too() -> None:
    """Of a newer version, say: nothing is dropped."""
    event = read_event("limen", 7, b'{"t":"novel","ts":1.5,"act":"x","sub":"ann"}')
    assert (event.type, event.category, event.severity, event.subject) == ("novel", "administration", "info", "ann")
    assert type_of({"t": "reload", "ok": False}) == "reload.failed"
    with pytest.raises(ValueError, match="not an object"):
        read_event("limen", 8, b"[]")
