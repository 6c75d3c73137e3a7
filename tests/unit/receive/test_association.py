"""The PDUs of association, who is let in, and which contexts are accepted."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import AllTransferSyntaxes, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import _STORAGE_CLASSES
from pynetdicom.transport import AddressInformation

from imaging_ai.core.contexts import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES, VERIFICATION
from imaging_ai.receive import pdu
from imaging_ai.receive.negotiation import negotiate
from imaging_ai.receive.pdu import AssociateRequest, MalformedPdu, ProposedContext, parse_request
from imaging_ai.receive.policy import AssociationPolicy, Refusal


def proposal(*contexts: tuple[str, list[str]], called: str = "IMAGINGAI", calling: str = "SCU") -> bytes:
    """Make an A-ASSOCIATE-RQ with pynetdicom."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.called_ae_title, primitive.calling_ae_title = called, calling
    primitive.calling_presentation_address = primitive.called_presentation_address = AE_ADDRESS
    built = []
    for number, (abstract_syntax, transfer_syntaxes) in enumerate(contexts):
        context = build_context(abstract_syntax, transfer_syntaxes)
        context.context_id = 2 * number + 1
        built.append(context)
    primitive.presentation_context_definition_list = built
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = 16382
    implementation.implementation_class_uid = "1.2.3"
    primitive.user_information = [length, implementation]
    request = A_ASSOCIATE_RQ()
    request.from_primitive(primitive)
    return bytes(request.encode())


AE_ADDRESS = AddressInformation("127.0.0.1", 11112)


def request(**changes: object) -> AssociateRequest:
    values: dict[str, object] = {
        "protocol_version": 1,
        "called_ae_title": "IMAGINGAI",
        "calling_ae_title": "SCU",
        "titles": bytes(32),
        "application_context": pdu.APPLICATION_CONTEXT,
        "contexts": (),
        "max_pdu_bytes": 16382,
    }
    return AssociateRequest(**(values | changes))  # type: ignore[arg-type]


def test_a_request_of_pynetdicom_is_read() -> None:
    data = proposal(
        (CTImageStorage, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]), (VERIFICATION, ["1.2.840.10008.1.2"])
    )
    read = parse_request(data[6:])
    assert (read.called_ae_title, read.calling_ae_title, read.max_pdu_bytes) == ("IMAGINGAI", "SCU", 16382)
    assert read.is_dicom
    assert read.contexts == (
        ProposedContext(1, CTImageStorage, (ExplicitVRLittleEndian, ImplicitVRLittleEndian)),
        ProposedContext(3, VERIFICATION, (ImplicitVRLittleEndian,)),
    )


def test_our_acceptance_is_read_by_pynetdicom() -> None:
    read = parse_request(
        proposal((CTImageStorage, [ExplicitVRLittleEndian]), ("1.2.3.4.5", [ExplicitVRLittleEndian]))[6:]
    )
    _, answers = negotiate(AssociationPolicy(), read.contexts)
    answer = A_ASSOCIATE_AC()
    answer.decode(pdu.accept(read, answers, 131072))
    contexts = {item.context_id: (item.result, item.transfer_syntax) for item in answer.presentation_context}
    assert contexts[1] == (0, ExplicitVRLittleEndian)
    assert contexts[3][0] == 3
    assert answer.user_information.maximum_length == 131072
    assert answer.called_ae_title.strip() == "IMAGINGAI"


def test_our_rejection_and_abort_are_read_by_pynetdicom() -> None:
    rejection = A_ASSOCIATE_RJ()
    rejection.decode(pdu.reject(1, 1, 7))
    assert (rejection.result, rejection.source, rejection.reason_diagnostic) == (1, 1, 7)
    aborted = A_ABORT_RQ()
    aborted.decode(pdu.abort(2))
    assert (aborted.source, aborted.reason_diagnostic) == (2, 2)


@given(st.binary(max_size=400))
def test_no_bytes_make_reading_a_request_fail_otherwise(data: bytes) -> None:
    try:
        parse_request(data)
    except MalformedPdu:
        return


@given(st.integers(0, 300), st.integers(0, 255))
def test_no_damage_makes_reading_a_request_fail_otherwise(position: int, value: int) -> None:
    data = bytearray(proposal((CTImageStorage, [ExplicitVRLittleEndian]))[6:])
    data[position % len(data)] = value
    try:
        parse_request(bytes(data))
    except MalformedPdu:
        return


@pytest.mark.parametrize(
    ("policy", "changes", "address", "now_open", "refusal"),
    [
        (AssociationPolicy(), {}, "10.0.0.1", 1, None),
        (AssociationPolicy(), {"called_ae_title": "OTHER"}, "10.0.0.1", 1, Refusal.CALLED_AE_TITLE),
        (AssociationPolicy(check_called_ae_title=False), {"called_ae_title": "OTHER"}, "10.0.0.1", 1, None),
        (AssociationPolicy(calling_ae_titles=frozenset({"CT1"})), {}, "10.0.0.1", 1, Refusal.CALLING_AE_TITLE),
        (AssociationPolicy(calling_ae_titles=frozenset({"SCU"})), {}, "10.0.0.1", 1, None),
        (AssociationPolicy(networks=(ip_network("10.0.0.0/24"),)), {}, "10.0.1.1", 1, Refusal.NOT_ALLOWED),
        (AssociationPolicy(networks=(ip_network("10.0.0.0/24"),)), {}, "::ffff:10.0.0.9", 1, None),
        (AssociationPolicy(networks=(ip_network("fe80::/10"),)), {}, "fe80::1%eth0", 1, None),
        (AssociationPolicy(max_associations=2), {}, "10.0.0.1", 2, None),
        (AssociationPolicy(max_associations=2), {}, "10.0.0.1", 3, Refusal.TOO_MANY),
        (AssociationPolicy(), {"protocol_version": 2}, "10.0.0.1", 1, Refusal.PROTOCOL_VERSION),
        (AssociationPolicy(), {"application_context": "1.2"}, "10.0.0.1", 1, Refusal.APPLICATION_CONTEXT),
    ],
)
def test_who_may_associate(
    policy: AssociationPolicy, changes: dict[str, object], address: str, now_open: int, refusal: Refusal | None
) -> None:
    assert policy.refusal(request(**changes), address, now_open) is refusal


def test_every_storage_class_and_transfer_syntax_that_the_libraries_know_is_accepted() -> None:
    proposed = [
        ProposedContext(number, uid, (syntax,))
        for number, (uid, syntax) in enumerate(
            (uid, syntax) for uid in _STORAGE_CLASSES.values() for syntax in AllTransferSyntaxes
        )
    ]
    accepted, _ = negotiate(AssociationPolicy(), proposed)
    assert len(accepted) == len(proposed)


def test_the_requestors_order_of_transfer_syntaxes_is_its_preference() -> None:
    proposed = [ProposedContext(1, CTImageStorage, ("1.2.3", ExplicitVRLittleEndian, ImplicitVRLittleEndian))]
    accepted, answers = negotiate(AssociationPolicy(), proposed)
    assert accepted[1].transfer_syntax_uid == ExplicitVRLittleEndian
    assert answers[1] == (0, ExplicitVRLittleEndian)


@pytest.mark.parametrize(
    ("policy", "abstract_syntax", "transfer_syntax", "result"),
    [
        (AssociationPolicy(), "1.2.3.4", ExplicitVRLittleEndian, 3),
        (AssociationPolicy(), CTImageStorage, "1.2.3.4", 4),
        (AssociationPolicy(sop_classes=frozenset({"1.2.3.4"})), "1.2.3.4", ExplicitVRLittleEndian, 0),
        (AssociationPolicy(sop_classes=frozenset({"1.2.3.4"})), "1.2.3.4", "1.2.3.9", 0),
        (AssociationPolicy(unknown_sop_classes=True), "1.2.9", ExplicitVRLittleEndian, 0),
        (AssociationPolicy(unknown_sop_classes=True), "no uid", ExplicitVRLittleEndian, 3),
        (AssociationPolicy(unknown_sop_classes=True), VERIFICATION, ExplicitVRLittleEndian, 0),
    ],
)
def test_what_is_not_storage_is_taken_only_when_configured(
    policy: AssociationPolicy, abstract_syntax: str, transfer_syntax: str, result: int
) -> None:
    _, answers = negotiate(policy, [ProposedContext(1, abstract_syntax, (transfer_syntax,))])
    assert answers[1][0] == result


def test_the_tables_are_as_large_as_the_standard() -> None:
    assert set(_STORAGE_CLASSES.values()) <= set(STORAGE_SOP_CLASSES)
    assert set(AllTransferSyntaxes) <= set(TRANSFER_SYNTAXES)


def test_a_title_that_is_none_cannot_forge_a_line_of_the_log() -> None:
    data = bytearray(proposal((CTImageStorage, [ImplicitVRLittleEndian])))
    data[26:42] = b"A\nB\0C\x1b[2J\xff".ljust(16)
    assert parse_request(bytes(data[6:])).calling_ae_title == "A?B?C?[2J\N{REPLACEMENT CHARACTER}"
